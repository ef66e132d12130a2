"""Where pictures come from: folders on disk → records (name, wnid, place of the bytes), in a fixed order."""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from sharding.errors import ShardError

logger = logging.getLogger(__name__)

Layout = Literal["auto", "folders", "flat", "archives", "kaggle", "parquet"]
Split = Literal["train", "val", "test"]

SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"})
"""A file is taken for a picture by its suffix (any case); what is in it is seen when it is decoded."""

SPLIT_FOLDERS: dict[str, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}

_WNID_NAME = re.compile(r"(n\d{8})_")
_UNLABELLED_NAME = re.compile(r"ILSVRC\d{4}_(train|val|test)_\d{8}")


class Record(NamedTuple):
    """One source picture: `name` is its relative path (it makes the key), `file` where its bytes are.

    `size` −1: the whole file. `data`: the bytes themselves, from a source that is read only once.
    """

    name: str
    wnid: str
    file: str
    offset: int = 0
    size: int = -1
    data: bytes | None = None


@dataclass(frozen=True)
class Source:
    """A split's pictures in the layout that was found. `records` may be iterated once."""

    layout: str
    records: Iterator[Record]


def split_folder(source: Path, split: Split) -> Path:
    """The folder of one split inside `source`, or `source` itself where there is none (then it is the split)."""
    for name in SPLIT_FOLDERS[split]:
        if (source / name).is_dir():
            return source / name
    return source


def has_split_folder(source: Path, split: Split) -> bool:
    """Whether `source` holds a folder of its own for this split."""
    return split_folder(source, split) != source


def open_folder(folder: Path, layout: Layout) -> Source:
    """Class folders, or one flat folder of `<wnid>_<id>.JPEG`. Raises ShardError if it is neither or both."""
    flat = [entry for entry in _entries(folder) if entry.is_file() and is_picture(entry.name)]
    classes = [entry for entry in _entries(folder) if entry.is_dir()]
    if layout == "auto" and flat and classes:
        raise ShardError(
            f"{folder}: holds both pictures ({flat[0].name}, …) and folders ({classes[0].name}, …); "
            "say which counts with --layout folders or --layout flat"
        )
    if layout == "flat" or (layout == "auto" and flat):
        return Source("flat", _flat_records(flat))
    return Source("folders", _folder_records(classes))


def is_picture(name: str) -> bool:
    """Whether a file's name says that it is a picture."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: os.fsencode(entry.name))


def _flat_records(files: list[os.DirEntry[str]]) -> Iterator[Record]:
    for entry in files:
        yield Record(entry.name, _wnid_of_name(entry), entry.path)


def _wnid_of_name(entry: os.DirEntry[str]) -> str:
    wnid = _WNID_NAME.match(entry.name)
    if wnid:
        return wnid[1]
    if _UNLABELLED_NAME.match(entry.name):
        raise ShardError(f"{entry.path}: the name tells no class; give --ground-truth TXT and --devkit META.mat")
    prefix, underscore, _ = entry.name.rpartition("_")
    if not underscore or not prefix:
        raise ShardError(f"{entry.path}: a flat folder needs names <wnid>_<id>.JPEG, to tell the class")
    return prefix


def _folder_records(classes: list[os.DirEntry[str]]) -> Iterator[Record]:
    for entry in classes:
        passed = 0
        for relative, path in _files_below(Path(entry.path), entry.name):
            if is_picture(relative):
                yield Record(relative, entry.name, path)
            else:
                passed += 1
        if passed:
            logger.warning("%s: passed over %d files without a picture's suffix", entry.path, passed)


def _files_below(folder: Path, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in _entries(folder):
        name = f"{prefix}/{entry.name}"
        if entry.is_file():
            yield name, entry.path
        elif entry.is_dir(follow_symlinks=False):
            yield from _files_below(Path(entry.path), name)
