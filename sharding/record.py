"""What a source yields: records of pictures, whatever the layout they were found in, and a count of all else."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from common.errors import UserError

Layout = Literal["auto", "folders", "flat", "archives", "kaggle", "parquet"]
Split = Literal["train", "val", "test"]
Encoding = Literal["jpeg", "raw"]
Resample = Literal["area", "lanczos"]

SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"})
"""A file is taken for a picture by its suffix (any case); what is in it is seen when it is decoded."""

SPLIT_WORDS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}

NUMBERED_NAME = re.compile(r"ILSVRC\d{4}_(?:val|test)_(\d{8})")
"""Names of the official validation and test pictures: the number is the line of the ground-truth file."""

_WNID_NAME = re.compile(r"(n\d{8})_")


class ShardError(UserError):
    """A source, a job or a shard set is not as it must be; the message says what, where and what to do."""


class RejectedImage(ShardError):
    """One source picture cannot be packed, for this reason: it goes to the manifest's `rejects`, the job goes on."""


@dataclass(frozen=True)
class ClassInfo:
    """One class: its `label` (0-based), WordNet id (or folder name) and name in words."""

    label: int
    wnid: str
    name: str


class Record(NamedTuple):
    """One source picture: `name` is its relative path (it makes the key), `file` where its bytes are.

    Bytes of a name that are not UTF-8 stand in `name` as surrogates. `wnid` is its class, "" if a ground-truth file
    must tell it. `size` −1: the whole file. `data`: the bytes themselves, from a source that can only be read in order;
    `link`: the name of a record before it that has the same bytes there. `state` is that of the file (`file_state`).
    """

    name: str
    wnid: str
    file: str
    offset: int = 0
    size: int = -1
    data: bytes | None = None
    link: str = ""
    state: str = ""


class Skipped(dict[str, dict[str, Any]]):
    """Entries of a source that are not packed: how many, by reason, and the first of each."""

    def add(self, reason: str, entry: str) -> None:
        """Count one entry."""
        row = self.setdefault(reason, {"reason": reason, "entries": 0, "first": printable(entry)})
        row["entries"] += 1

    def add_unless_picture(self, name: str) -> bool:
        """Count a file whose name does not say that it is a picture; whether it was counted."""
        if not is_picture(name):
            self.add("no picture's suffix", name)
            return True
        return False


@dataclass(frozen=True, kw_only=True)
class Source:
    """One split's pictures. `records` may be iterated once, and comes in a fixed order; `skipped` fills on the way.

    `files`: what is read besides pictures in folders: archives, tables of labels. `streamed`: those of them that can
    only be read in order (their records carry `data`). `table`: the class table that the source itself tells, once
    `records` is exhausted. `expected`: what is looked for, for the message if there is nothing.
    """

    layout: str
    records: Iterator[Record]
    expected: str
    skipped: Skipped = field(default_factory=Skipped)
    files: tuple[Path, ...] = ()
    streamed: tuple[Path, ...] = ()
    table: Callable[[], list[ClassInfo] | None] = field(default=lambda: None)


def is_picture(name: str) -> bool:
    """Whether a file's name says that it is a picture."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def canonical(path: str) -> str:
    """A path of this system in UTF-8, whatever the locale; other bytes become surrogates, as in a record's name."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def printable(name: str) -> str:
    """A name that any file or screen takes: bytes that are not UTF-8 are percent-escaped."""
    return re.sub("[\udc80-\udcff]", lambda match: f"%{ord(match[0]) - 0xDC00:02X}", name)


def file_state(status: os.stat_result) -> str:
    """Size and time of modification: what changes when a file does."""
    return f"{status.st_size}:{status.st_mtime_ns}"


def split_of_name(name: str) -> Split | None:
    """The split whose word stands in a file's name, at a word's start ("latest" is no test split)."""
    for split, words in SPLIT_WORDS.items():
        if re.search(rf"(?<![a-z])({'|'.join(words)})", name.lower()):
            return split
    return None


def wnid_of_flat_name(name: str, origin: str) -> str:
    """The class in a name `<wnid>_<id>.JPEG`; "" for an official validation or test name; ShardError for others."""
    wnid = _WNID_NAME.match(name)
    if wnid:
        return wnid[1]
    if NUMBERED_NAME.match(name):
        return ""
    prefix, underscore, _ = name.rpartition("_")
    if not underscore or not prefix:
        advice = "pictures outside class folders need names <wnid>_<id>.JPEG"
        raise ShardError(f"{origin}: the name tells no class; {advice}")
    return printable(prefix)
