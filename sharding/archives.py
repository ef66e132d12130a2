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
from typing import IO, Any

from sharding.record import SPLIT_WORDS, Record, ShardError, Skipped, Source, Split, printable, wnid_of_flat_name

DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)
"""What reading a damaged archive raises; and OSError without a number."""

SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz|tar\.bz2|tar\.xz)$")
_CLASS_TAR = re.compile(r"n\d{8}$")
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


def open_archives(paths: list[Path], split: Split) -> Source:
    """The pictures of these archives. Raises ShardError for one that is no tar, or is damaged."""
    skipped = Skipped()
    return Source(
        layout="archives",
        records=(record for path in paths for record in _records(path, split, skipped)),
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


def _records(path: Path, split: Split, skipped: Skipped) -> Iterator[Record]:
    """Records with name and class: without `./` and the split's own folder, the folder that is left is the class."""
    stem, opener = SUFFIX.sub("", path.name), _opener(path)
    prefix = stem + "/" if _CLASS_TAR.match(stem) else ""

    def plain(name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        return "/".join(parts[1:] if len(parts) > 1 and parts[0] in SPLIT_WORDS[split] else parts)

    with opener(path) if opener else path.open("rb") as file:
        for record in _pictures(file, str(path), prefix, None if opener else 0, skipped):
            name = plain(record.name)
            folder, slash, _ = name.partition("/")
            wnid = printable(folder) if slash else wnid_of_flat_name(name, f"{path}: {printable(record.name)}")
            yield record._replace(name=name, wnid=wnid, file=str(path), link=plain(record.link))


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


def _pictures(file: IO[bytes], origin: str, prefix: str, base: int | None, skipped: Skipped) -> Iterator[Record]:
    """The pictures of one tar, that `file` holds from its start to its end, and of the tars in it; links come last.

    `origin` names the tar in messages; `prefix` goes before its members' names; `base` is where it begins in the plain
    file that is read at random, so its pictures come by name; None if it can only be read in order.
    Raises ShardError that names the archive, the member before the damage and the offset.
    """
    last, links = "", dict[str, str]()

    def members(archive: tarfile.TarFile) -> Iterator[tuple[str, int, int]]:
        nonlocal last
        for member in archive:
            last = f"damaged after {printable(member.name)}, at byte {archive.offset}"
            if member.issparse():
                raise ShardError(f"{origin}: {member.name}: stored with holes; make the tar without --sparse")
            if member.isreg():
                yield member.name, member.offset_data, member.size
            elif member.islnk() or member.issym():
                folder = posixpath.dirname(member.name) if member.issym() else ""
                links[posixpath.normpath(member.name)] = posixpath.normpath(posixpath.join(folder, member.linkname))
            elif not member.isdir():
                skipped.add("no regular file", prefix + member.name)
            archive.members = []  # type: ignore[attr-defined] # what tarfile would remember of a million members
        _check_end(file)

    try:
        with tarfile.open(
            fileobj=file, mode="r:", tarinfo=_Header, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            listed = members(archive)
            for name, offset, size in listed if base is None else sorted(listed):
                if name.endswith(".tar"):
                    content, inner_base = _content(archive, offset, size), None if base is None else base + offset
                    inner = f"{origin}: {printable(name)}"
                    yield from _pictures(content, inner, f"{prefix}{Path(name).stem}/", inner_base, skipped)
                elif not skipped.add_unless_picture(prefix + name):
                    data = _content(archive, offset, size).read() if base is None else None
                    yield Record(prefix + name, "", "", (base or 0) + offset, size, data)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the content
            raise
        raise ShardError(f"{origin}: cannot be read as a tar: {last or 'not read'} ({error}); fetch it again") from None
    for name in links:
        if not skipped.add_unless_picture(prefix + name):
            yield Record(prefix + name, "", "", link=prefix + _target(links, name))


def _check_end(file: IO[bytes]) -> None:
    """Raise ReadError unless the second block of the end mark follows, and then nothing but zeros."""
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("an end mark of one block")
    while block:
        if block.strip(b"\0"):
            raise tarfile.ReadError("more follows the end mark: a hole, or two archives in one file")
        block = file.read(1 << 20)


def _content(archive: tarfile.TarFile, offset: int, size: int) -> IO[bytes]:
    """The bytes of a member, as a file."""
    header = tarfile.TarInfo()
    header.offset_data, header.size = offset, size
    return tarfile.ExFileObject(archive, header)


def _target(links: dict[str, str], name: str) -> str:
    """What a link leads to in the end; one that goes in a circle leads to a link."""
    seen = {name}
    while links.get(name, name) not in seen:
        name = links[name]
        seen.add(name)
    return name
