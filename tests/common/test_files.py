"""Files that appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from common import ceil_div
from common.files import hardlink, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    with write_atomically(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one" and names(path.parent) == ["file"]


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left"), OSError("a library's words")],
)
def test_whatever_goes_wrong_the_old_file_stays_and_no_part_is_left(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as raised, write_atomically(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]
    if isinstance(error, OSError):  # the system names no file when a disk is full: ours does, and keeps the words
        assert isinstance(raised.value, OSError)
        assert (raised.value.filename, raised.value.errno) == (str(path), error.errno)
        assert raised.value.strerror in ("No space left", "a library's words")


def test_other_names_are_there_before_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, order = tmp_path / "last", []
    replace = Path.replace

    def note(self: Path, target: Path) -> Path:
        order.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", note)
    with write_atomically(path, "best", "epoch-1") as file:
        file.write(b"weights")
    assert order == ["best", "epoch-1", "last"] and names(tmp_path) == ["best", "epoch-1", "last"]
    assert len({item.stat().st_ino for item in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_replaces_what_stood_there(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a link; by a copy on a file system that has none."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "not permitted")))
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    for _ in range(2):  # the second time both are the same file
        hardlink(source, target)
        assert target.read_bytes() == b"new" and names(tmp_path) == ["source", "target"]
    assert (source.stat().st_ino == target.stat().st_ino) == links


@pytest.mark.parametrize(("dividend", "divisor", "quotient"), [
    (0, 3, 0), (1, 3, 1), (3, 3, 1), (4, 3, 2), (10**30 + 1, 10, 10**29 + 1), (-1, 3, 0),
])  # fmt: skip
def test_ceil_div_rounds_up_exactly(dividend: int, divisor: int, quotient: int) -> None:
    assert ceil_div(dividend, divisor) == quotient
