"""Sources that are not as they should be: small pictures, tars and trees to damage."""

import io
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding.__main__ import main

Member = tuple[str, bytes] | tarfile.TarInfo


def jpeg(number: int) -> bytes:
    """A picture of its own color for each number below 256."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), (number, 255 - number, 90), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def tar(members: Iterable[Member], mode: str = "w", **how: object) -> bytes:
    """A tar of files (name, content) and of members without content, in this order."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, encoding="utf-8", errors="surrogateescape", **how) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                header = tarfile.TarInfo(member[0])
                header.size = len(member[1])
                archive.addfile(header, io.BytesIO(member[1]))
    return file.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    """A link in a tar, hard unless `kind` says SYMTYPE."""
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def class_files(*classes: str, each: int = 2) -> list[tuple[str, bytes]]:
    """`each` pictures in each class folder."""
    names = [f"{name}/{name}_{number}.JPEG" for name in classes for number in range(each)]
    return [(name, jpeg(number)) for number, name in enumerate(names)]


def write(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """Write files below `folder`; returns it."""
    for name, content in files:
        path = folder / os.fsdecode(name.encode("utf-8", "surrogateescape"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


Outcome = tuple[int, str, str]


@pytest.fixture
def pack(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """Pack tmp_path/source into tmp_path/out as a command; returns the status, its output and its lines of error."""

    def run(*options: object, source: Path | None = None, out: Path | None = None) -> Outcome:
        line = ["pack", source or tmp_path / "source", out or tmp_path / "out", "--workers", 1, *options]
        status = main([str(word) for word in line])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, "\n".join(row for row in captured.err.split("\n") if row.startswith("error: "))

    return run
