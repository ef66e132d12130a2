"""Pictures in tars, read in place: the official train tar of per-class tars, val and test tars, and single class tars.

A plain tar is read at random; a compressed one only in order, so its records carry their bytes.
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sharding.errors import ShardError
from sharding.record import SPLIT_WORDS, Record, Source, Split, is_picture, wnid_of_flat_name

_ARCHIVE = re.compile(r"\.(tar|tar\.gz|tgz|tar\.bz2|tar\.xz)$")
_OTHER = re.compile(r"devkit|patch|bbox|annotation", re.IGNORECASE)
_CLASS_TAR = re.compile(r"n\d{8}$")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")


def find_archives(source: Path, split: Split) -> list[Path]:
    """The archives of one split: `source` itself, those in its folder of that split, or those named after the split."""
    if source.is_file():
        return [source] if _ARCHIVE.search(source.name) else []
    for word in SPLIT_WORDS[split]:
        inside = _tars(source / word)
        if inside:
            return inside
    tars = _tars(source)
    named = [path for path in tars if _split_of(path.name) == split]
    if not named and split == "train":
        return [path for path in tars if _split_of(path.name) is None]
    return named


def _tars(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _ARCHIVE.search(path.name) and not _OTHER.search(path.name))


def tells_split(path: Path, split: Split) -> bool:
    """Whether the archive's name, or its folder's, says that it is of this split."""
    return _split_of(path.name) == split or path.parent.name in SPLIT_WORDS[split]


def _split_of(name: str) -> str | None:
    """The split whose word stands in a file's name, at a word's start ("latest" is no test split)."""
    for split, words in SPLIT_WORDS.items():
        if re.search(rf"(?<![a-z])({'|'.join(words)})", name.lower()):
            return split
    return None


def open_archives(paths: list[Path], split: Split) -> Source:
    """The pictures of these archives. Raises ShardError for one that is no tar."""
    compressed = tuple(path for path in paths if _is_compressed(path))
    return Source(
        layout="archives",
        records=(record for path in paths for record in _archive_records(path, split)),
        expected=f"pictures or per-class tars in {paths[0].name}",
        streamed=compressed,
    )


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith(_COMPRESSED)


def _archive_records(path: Path, split: Split) -> Iterator[Record]:
    stem = _ARCHIVE.sub("", path.name)
    prefix = stem + "/" if _CLASS_TAR.match(stem) else ""
    try:
        if _is_compressed(path):
            with tarfile.open(path, "r|*") as archive:
                yield from _read_in_order(archive, path, prefix, split)
        else:
            with path.open("rb") as file:
                yield from _read_in_place(file, path, prefix, split)
    except (tarfile.TarError, EOFError) as error:
        raise ShardError(f"{path}: cannot be read as a tar ({error}); fetch it again") from None


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Regular members one by one; what tarfile would remember of them is dropped (a data set has a million)."""
    for member in archive:
        if member.isreg():
            yield member
        archive.members = []  # type: ignore[attr-defined]


def _read_in_place(file: IO[bytes], path: Path, prefix: str, split: Split) -> Iterator[Record]:
    """Records of the plain tar that begins at `file`'s place, in order of name; tars inside it likewise."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        found = sorted((member.name, member.offset_data, member.size) for member in _members(archive))
    for name, offset, size in found:
        if name.endswith(".tar"):
            file.seek(offset)
            yield from _read_in_place(file, path, f"{prefix}{Path(name).stem}/", split)
        elif is_picture(name):
            yield _record(prefix + name, path, split)._replace(offset=offset, size=size)


def _read_in_order(archive: tarfile.TarFile, path: Path, prefix: str, split: Split) -> Iterator[Record]:
    for member in _members(archive):
        content = archive.extractfile(member)
        if content is None:
            continue
        if member.name.endswith(".tar"):
            with tarfile.open(fileobj=content, mode="r|") as inner:
                yield from _read_in_order(inner, path, f"{prefix}{Path(member.name).stem}/", split)
        elif is_picture(member.name):
            yield _record(prefix + member.name, path, split)._replace(data=content.read())


def _record(name: str, path: Path, split: Split) -> Record:
    """Name and class of a member: `./` and the split's own folder are dropped, the folder that is left is the class."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if len(parts) > 1 and parts[0] in SPLIT_WORDS[split]:
        parts = parts[1:]
    wnid = parts[0] if len(parts) > 1 else wnid_of_flat_name(parts[0], f"{path}: {name}")
    return Record("/".join(parts), wnid, str(path))
