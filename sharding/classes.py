"""Class tables: which label each wnid has. Train and val must agree, so the table goes into the manifest."""

import io
import logging
import re
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from sharding.archives import DAMAGED
from sharding.manifest import MANIFEST, Manifest
from sharding.options import PackOptions
from sharding.pack_index import PackIndex
from sharding.record import SPLIT_WORDS, ClassInfo, ShardError, Source, Split

logger = logging.getLogger(__name__)

Table = list[ClassInfo]
_ID_FIELD = re.compile(r"ILSVRC(\d{4})_ID$")


def sorted_table(wnids: dict[str, str], names: dict[str, str]) -> Table:
    """Labels by sorted wnid, as ILSVRC-2012 trainers number them; `names` gives their words, where known."""
    return [ClassInfo(label, wnid, names.get(wnid, wnid)) for label, wnid in enumerate(sorted(wnids))]


def check_known(wnids: dict[str, str], table: Table, origin: str) -> None:
    """Raise ShardError if the class table has a wnid twice, or lacks a wnid of the source."""
    known: dict[str, int] = {}
    for entry in table:
        if known.setdefault(entry.wnid, entry.label) != entry.label:
            what = f"labels {known[entry.wnid]} and {entry.label} are both of class {entry.wnid}"
            raise ShardError(f"{origin}: {what}; each label must have a class of its own")
    for wnid, example in wnids.items():
        if wnid not in known:
            raise ShardError(f"{example}: class {wnid} is not in the class table of {origin} ({len(table)} classes)")


@dataclass(frozen=True)
class Devkit:
    """What the development kit tells: wnids by class id (1-based, as its ground truth counts), and the class table.

    Labels are those that its year's trainers use: 2010 by class id − 1, later years by sorted wnid.
    """

    wnids: dict[int, str]
    table: Table

    @classmethod
    def load(cls, path: Path) -> "Devkit":
        """Read `meta.mat`, or the kit's archive that holds it. Raises ShardError if it is neither."""
        from scipy.io import loadmat  # here, since it takes longer to import than all else that readers of shards need
        from scipy.io.matlab import MatReadError

        try:
            content = member_of_kit(path, "meta.mat") if tarfile.is_tarfile(path) else path.read_bytes()
            rows = loadmat(io.BytesIO(content or b""), squeeze_me=True)["synsets"]
            (match,) = filter(None, map(_ID_FIELD.match, rows.dtype.names))
            leaves = [row for row in rows if int(row["num_children"]) == 0]
            wnids = {int(row[match[0]]): str(row["WNID"]) for row in leaves}
            words = {str(row["WNID"]): str(row["words"]) for row in leaves}
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, zlib.error, MatReadError) as error:
            raise ShardError(f"{path}: cannot be read as a development kit's meta.mat ({error})") from None
        by_id = [ClassInfo(key - 1, wnid, words[wnid]) for key, wnid in sorted(wnids.items())]
        return cls(wnids, by_id if match[1] == "2010" else sorted_table(words, words))


def read_text(content: bytes, origin: str) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark. Raises ShardError for any other content."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"not a text in UTF-8 (byte {content[error.start]:#04x} at {error.start})"
        raise ShardError(f"{origin}: {what}; save it as UTF-8") from None
    if "\0" in text:
        raise ShardError(f"{origin}: not a text, byte {text.index(chr(0))} is zero; fetch the file again")
    return text


def member_of_kit(path: Path, ending: str) -> bytes | None:
    """The first file in the kit's archive whose name ends so; None if there is none."""
    try:
        with tarfile.open(path) as kit:
            for member in kit:
                content = kit.extractfile(member) if member.name.endswith(ending) else None
                if content is not None:
                    return content.read()
    except DAMAGED as error:
        raise ShardError(f"{path}: cannot be read as a tar ({error}); fetch it again") from None
    return None


def ground_truth(text: str, origin: str, devkit: Devkit | None) -> list[str]:
    """The wnid of each line of a ground-truth file: class ids (1-based, of the kit), or wnids themselves.

    Raises ShardError for an id that the kit does not know, or ids without a kit.
    """
    words = [line.strip() for line in text.rstrip().splitlines()]
    for number, word in enumerate(words, 1):
        if len(word.split()) != 1:
            raise ShardError(f"{origin}: line {number} is {word[:40]!r}, expected one class id or wnid a line")
    if not words or not all(word.isdecimal() for word in words):
        unknown = set(words) - set(devkit.wnids.values()) if devkit else set()
        if unknown:
            raise ShardError(f"{origin}: {min(unknown)} is neither a class id nor a known wnid")
        return words
    if devkit is None:
        raise ShardError(f"{origin}: holds class ids; give --devkit META.mat, which tells their wnids")
    for word in words:
        if int(word) not in devkit.wnids:
            known = f"whose ids go from 1 to {len(devkit.wnids)}"
            raise ShardError(f"{origin}: class id {int(word)} is not in the kit, {known}")
    return [devkit.wnids[int(word)] for word in words]


def settle(
    source: Source, options: PackOptions, split: Split, index: PackIndex, shared: dict[str, str], listed: Table | None
) -> Table:
    """Label what a ground truth must tell, and find the class table.

    `shared`: classes of all splits of the source. `listed`: the table of the training split that a dry run has listed.
    """
    kits = [*sorted(options.source.glob("*devkit*.tar*")), options.source / "meta.mat"]
    beside = next((path for path in (*kits, options.source / "data" / "meta.mat") if path.is_file()), None)
    kit_path = options.devkit or beside  # the one that lies with the official archives
    kit = Devkit.load(kit_path) if kit_path else None
    example = index.wnids().get("")
    if example is not None:
        if shared:
            raise ShardError(f"{example}: its name tells no class, which --val-fraction needs; use class folders")
        text, origin = _ground_truth_text(options, split, kit_path)
        if text is None:
            raise ShardError(f"{example}: its name tells no class; give --ground-truth TXT and --devkit META.mat")
        index.label(ground_truth(text, origin, kit), origin)
    elif options.ground_truth:
        logger.warning("%s: not used, since every picture's folder or name tells its class", options.ground_truth)
    wnids, known = shared or index.wnids(), known_table(options, split)
    if known:
        table, origin = known
    elif listed:
        table, origin = listed, "the training split"
    elif kit:
        table, origin = kit.table, str(kit_path)
    else:
        table, origin = source.table() or sorted_table(wnids, {}), str(options.source)
    check_known(wnids, table, origin)
    if len(table) == 1:
        logger.warning("%s: all pictures are of one class, %s; is SRC the folder of classes?", split, table[0].wnid)
    return table


def known_table(options: PackOptions, split: Split) -> tuple[Table, str] | None:
    """The class table that must be taken, and its manifest: the one given, else that of the training split in OUT."""
    sibling = options.out / "train" / MANIFEST
    path = options.classes or (sibling if split != "train" and sibling.exists() else None)
    if path is None:
        return None
    path = path / MANIFEST if path.is_dir() else path
    return Manifest.load(path).classes, str(path)


def _ground_truth_text(options: PackOptions, split: Split, kit: Path | None) -> tuple[str | None, str]:
    """Text and name of the ground truth: of the file given, or that lies with the archives or in the kit's archive."""
    endings = [f"{word}_ground_truth.txt" for word in SPLIT_WORDS[split]]
    beside = [path for ending in endings for path in sorted(options.source.glob(f"*{ending}"))]
    path = options.ground_truth or next(iter(beside), None)
    if path:
        return read_text(path.read_bytes(), str(path)), str(path)
    for ending in endings if kit and kit.suffix != ".mat" else []:
        content = member_of_kit(kit, ending) if kit else None
        if content is not None:
            return read_text(content, f"{kit} (…{ending})"), f"{kit} (…{ending})"
    return None, ""
