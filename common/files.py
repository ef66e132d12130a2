"""Files that appear whole or not at all: written beside their place, synced, renamed, and the folder synced."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def write_atomically(path: Path, *names: str) -> Iterator[IO[bytes]]:
    """Open a file that appears under `path` when it is whole and on the disk, or not at all; folders are made.

    `names`: other names in the folder that it gets first, whole too: once `path` is new, they are. Raises OSError that
    names `path`, as on a full disk; what stood there before is then intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        for name in names:
            hardlink(part, path.with_name(name))
        part.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, as `write_atomically` does."""
    with write_atomically(path) as file:
        file.write(text.encode())


def hardlink(source: Path, target: Path) -> None:
    """Give the file `source` the second name `target`, in place of what stood there; a copy where links cannot be."""
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        try:
            os.link(source, part)
        except OSError:  # a file system without hard links
            with source.open("rb") as original, part.open("wb") as copy:
                shutil.copyfileobj(original, copy)
                copy.flush()
                os.fsync(copy.fileno())
        part.replace(target)
        sync_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)  # it stays where both were one file before


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
