"""A source's pictures → the index of a split and its classes; what else the source holds, and whether it changed."""

import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from common.command_line import as_typed
from sharding import classes
from sharding.manifest import ClassInfo, Manifest
from sharding.options import PackOptions
from sharding.pack_index import PackIndex, Spool
from sharding.record import Record, ShardError, Source, Split, canonical, file_state, printable
from sharding.shard import sample_key
from sharding.source import find_devkit, find_patches, ground_truth_text, patched

logger = logging.getLogger(__name__)

_PARTS: tuple[Split, ...] = ("train", "val")


Contents = dict[str, dict[str, int]]
"""Of each class folder or archive that is packed: number and bytes of its files, and a digest of their states."""


def count_file(contents: Contents, group: str, name: str, state: str) -> None:
    """Count one file in `contents`; in which order does not matter."""
    row = contents.setdefault(printable(group), {"files": 0, "bytes": 0, "digest": 0})
    digest = hashlib.blake2b(f"{name}\0{state}".encode("utf-8", "surrogateescape"), digest_size=6).digest()
    row["files"] += 1
    row["bytes"] += int(state.partition(":")[0])
    row["digest"] = (row["digest"] + int.from_bytes(digest, "big")) % 2**48


def describe_differences(before: Contents, now: Contents) -> str:
    """Which contents differ, in words; empty if none do."""
    words = []
    for group in sorted({*before, *now}):
        old, new = before.get(group), now.get(group)
        if old is None or new is None:
            words.append(f"{group} was {'removed' if new is None else 'added'}")
        elif old["files"] != new["files"]:
            words.append(f"{group} had {old['files']} pictures, has {new['files']}")
        elif old != new:
            words.append(f"{group} was written to or renamed in")
    return "; ".join(words[:3]) + f"; and {len(words) - 3} more" * (len(words) > 3)


def count_contents(source: Source, options: PackOptions) -> Contents:
    """The contents of a source as they are now. Archives are not read for it, class folders are."""
    contents: Contents = {}
    for _ in _watched(source, options, contents, {}):
        if source.files and source.layout != "kaggle":  # all that counts was seen before the first record
            break
    return contents


def list_source(
    source: Source,
    options: PackOptions,
    split: Split,
    table: list[ClassInfo] | None,
    index: PackIndex,
    spool: Spool | None,
) -> Manifest:
    """Fill `index` from the source, spool what can only be read in order, give labels, settle the classes.

    `table` is the class table of the split packed before this one. Returns the manifest as far as it is known before
    anything is packed; its `checksums` has the index's digest. Raises ShardError if there are no pictures.
    """
    contents: Contents = {}
    used: dict[str, str] = {}
    records, part = _watched(source, options, contents, used), Part(options.val_fraction, split)
    shown = {"delay": 2.0, "mininterval": 1.0, "disable": options.quiet or not sys.stderr.isatty()}
    for name in index.fill(tqdm(part.of(records), unit="image", desc=f"{split}: listing", **shown), spool):
        source.skipped.add("a link to what the archive does not hold", name)
    part.check(options)
    absent = sorted(part.wnids.keys() - index.wnids().keys())
    if absent:
        logger.warning("%s: no picture of %d of the %d classes (%s, …)", split, len(absent), len(part.wnids), absent[0])
    skipped = list(source.skipped.reasons.values())
    if not len(index):
        seen = "".join(f"; skipped {row['entries']}, {row['reason']} ({row['first']}, …)" for row in skipped)
        raise ShardError(f"{options.source}: no pictures found for split {split}; expected {source.expected}{seen}")
    if options.patch_images:
        logger.info("%s: %d patch images take the place of others", split, len(used))
    table = _settle_classes(source, options, split, table, index, part.wnids)
    return Manifest(
        split=split,
        encoding=options.encoding,
        samples=len(index),
        classes=table,
        options=options.recorded(split, source.layout),
        shards=[],
        skipped=skipped,
        contents=contents,
        checksums={"pack_index": index.digest()},
        source=source_name(options),
    )


class Part:
    """The part of a source's records that --val-fraction gives to one split; all of them without it.

    Which part a picture is in depends on its key alone, so pictures that are added later move none. A link goes with
    what it links to.
    """

    def __init__(self, fraction: float | None, split: Split) -> None:
        self._fraction, self._split = fraction, split
        self._counts: Counter[Split] = Counter()
        self.wnids: dict[str, str] = {}

    def of(self, records: Iterator[Record]) -> Iterator[Record]:
        """Those of `records` that belong to the split; the others' classes are noted too."""
        for record in records:
            if self._fraction is not None:
                self.wnids.setdefault(record.wnid, printable(record.name))
                split = _split_of_key(sample_key(record.link or record.name), self._fraction)
                self._counts[split] += 1
                if split != self._split:
                    continue
            yield record

    def check(self, options: PackOptions) -> None:
        """Raise ShardError if either split is empty."""
        empty = [split for split in _PARTS if not self._counts[split]]
        if self._counts and empty:
            raise ShardError(
                f"{options.source}: of its {self._counts.total()} pictures none is left for {empty[0]}; "
                f"give more pictures, or another share, as {as_typed('--val-fraction 0.5')}"
            )


def _split_of_key(key: str, fraction: float) -> Split:
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=b"validation").digest()
    return "val" if int.from_bytes(digest, "big") < fraction * 2**64 else "train"


def _watched(source: Source, options: PackOptions, contents: Contents, used: dict[str, str]) -> Iterator[Record]:
    """The records, patched, each with the state of its file; `contents` counts each file once."""
    patches = find_patches(options.patch_images) if options.patch_images else {}
    files = [*map(str, source.files), *(str(path) for path in options.files().values() if path.is_file())]
    states = {}
    for path in (*files, *sorted(patches.values())):
        states[path] = file_state(Path(path).stat())
        count_file(contents, Path(path).name if path in files else "patch images", path, states[path])
    for record in patched(source.records, patches, used):
        state = states.get(record.file)
        if state is None:
            state = file_state(os.stat(record.file))  # noqa: PTH116 - a Path for each of a million files takes longer
            folder, slash, _ = record.name.partition("/")
            count_file(contents, folder if slash else ".", record.name, state)
        yield record._replace(state=state)


def _settle_classes(
    source: Source,
    options: PackOptions,
    split: Split,
    table: list[ClassInfo] | None,
    index: PackIndex,
    shared: dict[str, str],
) -> list[ClassInfo]:
    """Label what a ground truth must tell, and find the class table. `shared`: classes of all splits of the source."""
    kit_path = options.devkit or (find_devkit(options.source) if options.source.is_dir() else None)
    kit = classes.Devkit.load(kit_path) if kit_path else None
    example = index.unlabelled()
    if example is not None and shared:
        raise ShardError(f"{example}: its name tells no class, which --val-fraction needs; use class folders")
    if example is not None:
        text = ground_truth_text(options.ground_truth, options.source, kit_path, split)
        if text is None:
            raise ShardError(f"{example}: its name tells no class; give --ground-truth TXT and --devkit META.mat")
        index.label(classes.ground_truth(text[1], text[0], kit), text[0])
    elif options.ground_truth:
        logger.warning("%s: not used, since every picture's folder or name tells its class", options.ground_truth)
    wnids, origin = shared or index.wnids(), "the training split"
    given = known_table(options, split) if not table or options.classes else None
    if given:
        table, origin = given
    elif not table and kit:
        table, origin = kit.table(), str(kit_path)
    elif not table:
        table, origin = source.table() or classes.sorted_table(wnids, {}), str(options.source)
    classes.check_known(wnids, table, origin)
    if len(table) == 1:
        logger.warning("%s: all pictures are of one class, %s; is SRC the folder of classes?", split, table[0].wnid)
    return table


def source_name(options: PackOptions) -> str:
    """The source as the manifest names it: text of any locale."""
    return printable(canonical(str(options.source)))


def known_table(options: PackOptions, split: Split) -> tuple[list[ClassInfo], str] | None:
    """The class table that must be taken, and its manifest: the one given, else that of the training split in OUT."""
    sibling = options.out / "train" / "manifest.json"
    path = options.classes or (sibling if split != "train" and sibling.exists() else None)
    if path is None:
        return None
    path = path / "manifest.json" if path.is_dir() else path
    return Manifest.load(path).classes, str(path)
