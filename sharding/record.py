"""What a source yields: records of pictures, whatever the layout they were found in."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

from sharding.errors import ShardError

if TYPE_CHECKING:  # options need this module, and a command line answers before NumPy is imported
    from sharding.manifest import ClassInfo

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


class Record(NamedTuple):
    """One source picture: `name` is its relative path (it makes the key), `file` where its bytes are.

    `wnid` is its class, "" if a ground-truth file must tell it. `size` −1: the whole file. `data`: the bytes
    themselves, from a source that can only be read in order.
    """

    name: str
    wnid: str
    file: str
    offset: int = 0
    size: int = -1
    data: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """One split's pictures. `records` may be iterated once, and comes in a fixed order.

    `streamed`: the files that can only be read in order (their records carry `data`); empty if pictures are read in
    place. `table`: the class table that the source itself tells, once `records` is exhausted. `expected`: what is
    looked for, for the message if there is nothing.
    """

    layout: str
    records: Iterator[Record]
    expected: str
    streamed: tuple[Path, ...] = ()
    table: "Callable[[], list[ClassInfo] | None]" = field(default=lambda: None)


def is_picture(name: str) -> bool:
    """Whether a file's name says that it is a picture."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def wnid_of_flat_name(name: str, place: str) -> str:
    """The class in a name `<wnid>_<id>.JPEG`; "" for an official validation or test name; ShardError for others."""
    wnid = _WNID_NAME.match(name)
    if wnid:
        return wnid[1]
    if NUMBERED_NAME.match(name):
        return ""
    prefix, underscore, _ = name.rpartition("_")
    if not underscore or not prefix:
        raise ShardError(
            f"{place}: the name tells no class; pictures outside class folders need names <wnid>_<id>.JPEG"
        )
    return prefix
