"""Pictures in tars, read in place: the official train tar of per-class tars, val and test tars, and single class tars.

A plain tar is read at random; a compressed one only in order, so its records carry their bytes. A tar counts only if
it is whole: its end mark stands where the file ends, and a compressed file's checksum is right.
"""

import bz2
import gzip
import lzma
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from sharding.errors import ShardError
from sharding.record import (
    NO_SUFFIX,
    SPLIT_WORDS,
    Record,
    Skipped,
    Source,
    Split,
    is_picture,
    printable,
    split_of_name,
    wnid_of_flat_name,
)  # fmt: skip

_ARCHIVE = re.compile(r"\.(tar|tar\.gz|tgz|tar\.bz2|tar\.xz)$")
_OTHER = re.compile(r"devkit|patch|bbox|annotation", re.IGNORECASE)
_CLASS_TAR = re.compile(r"n\d{8}$")
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_END_OF_MARK = b"\0" * 512
_MEBIBYTE = 1 << 20
_LEADS_NOWHERE = "a link to what the archive does not hold"


def find_archives(source: Path, split: Split) -> list[Path]:
    """The archives of one split: `source` itself, those in its folder of that split, or those named after the split.

    A file that is given is of the split that its name tells, else of any.
    """
    if source.is_file():
        return [source] if _ARCHIVE.search(source.name) else []
    for word in SPLIT_WORDS[split]:
        inside = _tars(source / word)
        if inside:
            return inside
    tars = _tars(source)
    named = [path for path in tars if split_of_name(path.name) == split]
    if not named and split == "train":
        return [path for path in tars if split_of_name(path.name) is None]
    return named


def _tars(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _ARCHIVE.search(path.name) and not _OTHER.search(path.name))


def open_archives(paths: list[Path], split: Split) -> Source:
    """The pictures of these archives. Raises ShardError for one that is no tar, or is damaged."""
    skipped = Skipped()
    return Source(
        layout="archives",
        records=(record for path in paths for record in _archive_records(path, split, skipped)),
        expected=f"pictures or per-class tars in {paths[0].name}",
        skipped=skipped,
        files=tuple(paths),
        streamed=tuple(path for path in paths if _opener(path)),
    )


def _opener(path: Path) -> Callable[..., Any] | None:
    """What opens a compressed file; None for a plain one."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)


def _archive_records(path: Path, split: Split, skipped: Skipped) -> Iterator[Record]:
    stem = _ARCHIVE.sub("", path.name)
    prefix, opener = stem + "/" if _CLASS_TAR.match(stem) else "", _opener(path)
    with opener(path) if opener else path.open("rb") as file:
        for entry in _Tar(file, str(path), prefix, 0 if opener is None else None, skipped).pictures():
            yield _record(entry, path, split)


class _Entry(NamedTuple):
    """A picture in a tar: its name after the names of the tars around it; where it lies, or its bytes, or a name."""

    name: str
    offset: int = 0
    size: int = -1
    data: bytes | None = None
    link: str = ""


class _Header(tarfile.TarInfo):
    """A member's header. What is none ends a tar only if it is a block of zeros; tarfile lets a damaged one pass."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} where a member or the end mark must stand") from None


class _Tar:
    """One tar, that `file` holds from its start to its end, perhaps inside another tar.

    `origin` names it in messages; `prefix` goes before its members' names; `base` is where it begins in the plain file
    that is read at random, None if it can only be read in order.
    """

    def __init__(self, file: IO[bytes], origin: str, prefix: str, base: int | None, skipped: Skipped) -> None:
        self._file, self._origin, self._prefix, self._base, self._skipped = file, origin, prefix, base, skipped
        self._last, self._offset = "", 0
        self._links: dict[str, str] = {}

    def pictures(self) -> Iterator[_Entry]:
        """Its pictures and those of the tars in it: by name, links among them, or, read in order, links last.

        Raises ShardError that names the archive, the member before the damage and the offset.
        """
        try:
            with tarfile.open(
                fileobj=self._file, mode="r:", tarinfo=_Header, encoding="utf-8", errors="surrogateescape"
            ) as archive:
                yield from self._in_order(archive) if self._base is None else self._by_name(archive, self._base)
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the content
                raise
            where = f"damaged after {printable(self._last)}, at byte {self._offset}" if self._last else "not read"
            raise ShardError(f"{self._origin}: cannot be read as a tar: {where} ({error}); fetch it again") from None

    def _members(self, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        """Regular members one by one; links are kept, and what else there is counted. Then the end must follow."""
        for member in archive:
            self._last, self._offset = member.name, archive.offset
            if member.isreg():
                yield member
            elif member.islnk() or member.issym():
                folder = "" if member.islnk() else posixpath.dirname(member.name)
                self._links[_plain(member.name)] = _plain(posixpath.join(folder, member.linkname))
            elif not member.isdir():
                self._skipped.add("no regular file", self._prefix + member.name)
            archive.members = []  # type: ignore[attr-defined] # what tarfile would remember of a million members
        self._offset = archive.offset
        block = self._file.read(512)  # the first block of the end mark was read
        if block != _END_OF_MARK:
            raise tarfile.ReadError("an end mark of one block" if len(block) < 512 else "a block of zeros amid it")
        while block := self._file.read(_MEBIBYTE):
            if block.strip(b"\0"):
                raise tarfile.ReadError("more follows the end mark: a hole, or two archives in one file")

    def _by_name(self, archive: tarfile.TarFile, base: int) -> Iterator[_Entry]:
        members: list[tuple[str, int, int]] = []
        for member in self._members(archive):
            if member.issparse():
                raise ShardError(f"{self._origin}: {member.name}: stored with holes; make the tar without --sparse")
            members.append((member.name, member.offset_data, member.size))
        places = {_plain(name): (offset, size) for name, offset, size in members} if self._links else {}
        for name in self._links:
            if self._target(name) in places:
                members.append((name, *places[self._target(name)]))
            else:
                self._skipped.add(_LEADS_NOWHERE, self._prefix + name)
        for name, offset, size in sorted(members):
            if name.endswith(".tar"):
                self._file.seek(offset)
                yield from self._inner(_Part(self._file, size), name, base + offset)
            elif self._is_picture(name):
                yield _Entry(self._prefix + name, base + offset, size)

    def _in_order(self, archive: tarfile.TarFile) -> Iterator[_Entry]:
        pictures = set()
        for member in self._members(archive):
            content = archive.extractfile(member)
            if content is None:
                continue
            if member.name.endswith(".tar"):
                yield from self._inner(content, member.name, None)
            elif self._is_picture(member.name):
                pictures.add(_plain(member.name))
                yield _Entry(self._prefix + member.name, data=content.read())
        for name in self._links:
            if self._target(name) not in pictures:
                self._skipped.add(_LEADS_NOWHERE, self._prefix + name)
            elif self._is_picture(name):
                yield _Entry(self._prefix + name, link=self._prefix + self._target(name))

    def _inner(self, file: Any, name: str, base: int | None) -> Iterator[_Entry]:
        prefix = f"{self._prefix}{Path(name).stem}/"
        yield from _Tar(file, f"{self._origin}: {printable(name)}", prefix, base, self._skipped).pictures()

    def _target(self, name: str) -> str:
        """What a link leads to in the end; links in a circle lead to themselves."""
        seen = {name}
        while self._links.get(name, name) not in seen:
            name = self._links[name]
            seen.add(name)
        return name

    def _is_picture(self, name: str) -> bool:
        if not is_picture(name):
            self._skipped.add(NO_SUFFIX, self._prefix + name)
        return is_picture(name)


class _Part:
    """The `size` bytes from where `file` stands, as a file of its own that tarfile can read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._begin, self._size = file, file.tell(), size

    def tell(self) -> int:
        """Where it stands, from its own start."""
        return self._file.tell() - self._begin

    def seek(self, offset: int) -> int:
        """Go to `offset`, from its own start."""
        return self._file.seek(self._begin + offset) - self._begin

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, and none behind its end."""
        left = max(self._size - self.tell(), 0)
        return self._file.read(left if size < 0 else min(size, left))


def _plain(name: str) -> str:
    return posixpath.normpath(name)


def _record(entry: _Entry, path: Path, split: Split) -> Record:
    """Name and class of a member: `./` and the split's own folder are dropped, the folder that is left is the class."""
    parts = _parts(entry.name, split)
    wnid = printable(parts[0]) if len(parts) > 1 else wnid_of_flat_name(parts[0], f"{path}: {printable(entry.name)}")
    link = "/".join(_parts(entry.link, split)) if entry.link else ""
    return Record("/".join(parts), wnid, str(path), entry.offset, entry.size, entry.data, link)


def _parts(name: str, split: Split) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return parts[1:] if len(parts) > 1 and parts[0] in SPLIT_WORDS[split] else parts
