"""Splits copied between folders and a store: whole, checked, or not there; what has arrived is not fetched again.

The store is fsspec's own file system in memory, with faults that a test asks for: no network, no other program.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sharding import PackOptions, ShardError, ShardSet, pack
from sharding.__main__ import main
from sharding.copying import copy
from sharding.verify import verify


class Store(MemoryFileSystem):
    """`store://…`: notes what is read and written, and fails where `faults` (mode, end of a name) → error says so."""

    protocol = "store"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    faults: ClassVar[dict[tuple[str, str], Exception | str]] = {}
    opened: ClassVar[list[tuple[str, str]]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("store://", "memory://", 1))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self.opened.append((mode, path.rpartition("/")[2]))
        file = super()._open(path, mode, **options)
        for (faulty, name), fault in self.faults.items():
            if faulty == mode and path.endswith(name):
                return Faulty(file, fault)
        return file


class Faulty:
    """A file whose second read or write fails, or whose bytes are others than they were."""

    def __init__(self, file: Any, fault: Exception | str) -> None:
        self.file, self.fault, self.calls = file, fault, 0

    def __enter__(self) -> "Faulty":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def read(self, size: int) -> bytes:
        self.calls += 1
        if isinstance(self.fault, Exception):
            if self.calls > 1:
                raise self.fault
            return self.file.read(1000)
        content = self.file.read(size)
        return content[:-1] + b"?" if content else content

    def write(self, content: bytes) -> int:
        assert isinstance(self.fault, Exception)
        self.file.write(content[:1000])
        raise self.fault


@pytest.fixture(autouse=True)
def store() -> Iterator[type[Store]]:
    fsspec.register_implementation("store", Store, clobber=True)
    for kept in (Store.store, Store.faults, Store.opened):
        kept.clear()
    Store.pseudo_dirs[:] = [""]
    yield Store
    Store.store.clear()


@pytest.fixture(scope="module")
def packed(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 samples in 3 shards of the training split, and val beside it."""
    out = tmp_path_factory.mktemp("packed")
    pack(PackOptions(source=class_folders, out=out, workers=1, samples_per_shard=10))
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_to_a_store_and_back_is_the_same_bytes(packed: Path, tmp_path: Path, store: type[Store]) -> None:
    assert copy(str(packed), "store://bucket/shards") == 0
    written = [name for mode, name in store.opened if mode == "wb"]
    assert len(written) == len(files(packed)) == 14
    assert [written[at] for at in (8, 12, 13)] == ["manifest.json", "manifest.json", "README.md"]  # last of each split
    assert copy("store://bucket/shards", str(tmp_path / "back")) == 0
    assert files(tmp_path / "back") == files(packed)
    assert verify(tmp_path / "back") == 0


def test_one_split_alone_and_its_command(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["copy", str(packed / "val"), str(tmp_path / "val"), "--workers", "1"]) == 0
    assert files(tmp_path / "val") == files(packed / "val")
    for wrong, message in (("", "no packed split there"), ("nothing://x", "Protocol not known: nothing")):
        assert main(["copy", wrong or str(tmp_path / "empty"), str(tmp_path / "x")]) == 1
        assert message in capsys.readouterr().err
    assert main(["copy", str(packed), str(packed) + "/"]) == 1
    assert "copied to itself" in capsys.readouterr().err


def test_given_again_only_what_differs_is_fetched(packed: Path, tmp_path: Path, store: type[Store]) -> None:
    copy(str(packed), "store://bucket")
    target = tmp_path / "target"
    copy("store://bucket", str(target))
    damaged = target / "train" / "train-000001.tar"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (target / "train" / "train-000002.idx").unlink()
    mapped = damaged.open("rb")  # as a process that trains from it has it
    old = damaged.read_bytes()
    store.opened.clear()
    copy("store://bucket", str(target))
    fetched = sorted(name for _, name in store.opened if not name.endswith(("manifest.json", ".md")))
    assert fetched == ["train-000001.tar", "train-000002.idx"]
    assert files(target) == files(packed) and mapped.read() == old
    mapped.close()


FAULTS = [
    (("rb", "000001.tar"), ConnectionResetError("connection lost"), "connection lost; mend that, and run the same"),
    (("rb", "000001.tar"), TimeoutError(), "TimeoutError; mend that, and run the same command again"),
    (("rb", "samples.npy"), RuntimeError("the store's own error\nwith more lines"), "the store's own error; mend"),
    (("rb", "000002.tar"), "other bytes", "train-000002.tar: arrived with another SHA-256 than its manifest says"),
    (("rb", "000000.idx"), "other bytes", "train-000000.idx: arrived with another SHA-256 than its manifest says"),
]


@pytest.mark.parametrize(("where", "fault", "message"), FAULTS)
def test_a_fault_of_the_source_ends_in_one_line_and_the_copy_goes_on_later(
    packed: Path, tmp_path: Path, store: type[Store], where: tuple[str, str], fault: Any, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    copy(str(packed / "train"), "store://bucket")
    store.faults[where] = fault
    assert main(["copy", "store://bucket", str(tmp_path / "train"), "--workers", "1"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and message in lines[0]
    with pytest.raises(ShardError, match="not a packed split"):
        ShardSet.open(tmp_path / "train")
    arrived = set(files(tmp_path / "train"))
    assert not any(name.endswith(where[1]) for name in arrived) and not any(".part" in name for name in arrived)
    store.faults.clear()
    store.opened.clear()
    copy("store://bucket", str(tmp_path / "train"))
    fetched = {name for _, name in store.opened} - {"manifest.json"}
    assert fetched == set(files(packed / "train")) - arrived - {"manifest.json"}
    assert files(tmp_path / "train") == files(packed / "train")


def test_a_fault_of_the_target_leaves_no_split_there(packed: Path, store: type[Store]) -> None:
    store.faults[("wb", "000001.tar")] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ShardError, match="No space left on device; mend that, and run the same command again"):
        copy(str(packed / "train"), "store://bucket", workers=1)
    names = {path.rpartition("/")[2] for path in store.store}
    assert "manifest.json" not in names and "train-000001.tar" not in names and "train-000000.tar" in names
    store.faults.clear()
    copy(str(packed / "train"), "store://bucket")
    assert {path.rpartition("/")[2] for path in store.store} == set(files(packed / "train"))


def test_a_full_disk_is_seen_before_anything_is_fetched(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ShardError, match=r"train: 1\.00kB free, \d\d\dkB still to come; make room"):
        copy(str(packed / "train"), str(tmp_path / "train"))
    assert os.listdir(tmp_path / "train") == []  # noqa: PTH208


def test_a_source_that_is_packed_anew_meanwhile_is_noticed(
    packed: Path, tmp_path: Path, store: type[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(str(packed / "val"), "store://bucket")
    read, texts = Store.cat_file, [b"", b" "]
    monkeypatch.setattr(Store, "cat_file", lambda self, path, **more: read(self, path, **more) + texts.pop(0))
    with pytest.raises(ShardError, match="its manifest changed while it was copied; run the same command again"):
        copy("store://bucket", str(tmp_path / "val"))
    assert not (tmp_path / "val" / "manifest.json").exists()


def test_a_split_of_version_0_1_is_copied_and_its_unchecked_files_are_counted(
    packed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = Path(shutil.copytree(packed / "train", tmp_path / "old"))
    (old / "samples.npy").unlink()
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["checksums"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    with caplog.at_level("INFO"):
        copy(str(old), "store://bucket/train")
    assert "; 4 files have no checksum in this manifest of version 0.1" in caplog.text
    copy("store://bucket/train", str(tmp_path / "train"))
    assert files(tmp_path / "train") == files(old)
