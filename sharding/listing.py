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
from sharding.folders import pictures_in
from sharding.manifest import Manifest
from sharding.options import PackOptions
from sharding.pack_index import PackIndex
from sharding.record import ClassInfo, Record, ShardError, Skipped, Source, Split, canonical, file_state, printable
from sharding.shard import sample_key

logger = logging.getLogger(__name__)

Contents = dict[str, dict[str, int]]
"""Of each class folder or archive that is packed: number and bytes of its files, and a digest of their states."""


def list_source(
    source: Source, options: PackOptions, split: Split, index: PackIndex, listed: list[ClassInfo] | None = None
) -> Manifest:
    """Fill `index` from the source, give labels, settle the classes: `listed`, where no packed split tells them.

    Returns the manifest as far as it is known before anything is packed; its `checksums` has the index's digest. Raises
    ShardError if there are no pictures.
    """
    contents, used, parts = Contents(), dict[str, str](), Counter[Split]()
    wnids: dict[str, str] = {}  # of both splits, where they are parts of one source

    def records() -> Iterator[Record]:
        for record in _watched(source, options, contents, used):
            if options.val_fraction is not None:
                wnids.setdefault(record.wnid, printable(record.name))
                part = split_of(record, options.val_fraction)
                parts[part] += 1
                if part != split:
                    continue
            yield record

    shown = {"delay": 2.0, "mininterval": 1.0, "disable": options.quiet or not sys.stderr.isatty()}
    for name in index.fill(tqdm(records(), unit="image", desc=f"{split}: listing", **shown)):
        source.skipped.add("a link to what the archive does not hold", name)
    if parts and len(parts) < 2:
        empty = "train" if "val" in parts else "val"
        advice = f"give more pictures, or another share, as {as_typed('--val-fraction 0.5')}"
        raise ShardError(f"{options.source}: of its {parts.total()} pictures none is left for {empty}; {advice}")
    absent = sorted(wnids.keys() - index.wnids().keys())
    if absent:
        logger.warning("%s: no picture of %d of the %d classes (%s, …)", split, len(absent), len(wnids), absent[0])
    skipped = list(source.skipped.values())
    if not len(index):
        seen = "".join(f"; skipped {row['entries']}, {row['reason']} ({row['first']}, …)" for row in skipped)
        raise ShardError(f"{options.source}: no pictures found for split {split}; expected {source.expected}{seen}")
    if options.patch_images:
        logger.info("%s: %d patch images take the place of others", split, len(used))
    return Manifest(
        split=split,
        encoding=options.encoding,
        samples=len(index),
        classes=classes.settle(source, options, split, index, wnids, listed),
        options=options.recorded(split, source.layout),
        shards=[],
        skipped=skipped,
        contents=contents,
        checksums={"pack_index": index.digest()},
        source=source_name(options),
    )


def split_of(record: Record, fraction: float) -> Split:
    """The part of a source, `fraction` of which becomes the val split, that a picture is in.

    It depends on the key alone, so pictures that are added later move none; a link goes with what it links to.
    """
    key = sample_key(record.link or record.name)
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=b"validation").digest()
    return "val" if int.from_bytes(digest, "big") < fraction * 2**64 else "train"


def count_contents(source: Source, options: PackOptions) -> Contents:
    """The contents of a source as they are now. Archives are not read for it, class folders are."""
    contents = Contents()
    for _ in _watched(source, options, contents, {}):
        if source.files and source.layout != "kaggle":  # all that counts was seen before the first record
            break
    return contents


def _watched(source: Source, options: PackOptions, contents: Contents, used: dict[str, str]) -> Iterator[Record]:
    """The records, each with the state of its file; `contents` counts each file once.

    A patch stands in place of each picture of the same file name; `used` tells which took place. Raises ShardError if
    one would replace two pictures.
    """
    patches = _find_patches(options.patch_images) if options.patch_images else {}
    files = [*map(str, source.files), *(str(path) for path in options.files().values() if path.is_file())]
    states = {}
    for path in (*files, *sorted(patches.values())):
        states[path] = file_state(Path(path).stat())
        _count_file(contents, Path(path).name if path in files else "patch images", path, states[path])
    for record in source.records:
        folder, slash, base = record.name.rpartition("/")
        if base in patches:
            other = used.setdefault(base, record.name)
            if other != record.name:
                raise ShardError(f"{patches[base]} would replace both {other} and {record.name}")
            record = record._replace(file=patches[base], offset=0, size=-1, data=None, link="")
        state = states.get(record.file)
        if state is None:
            state = file_state(os.stat(record.file))  # noqa: PTH116 - a Path for each of a million files takes longer
            _count_file(contents, folder.partition("/")[0] if slash else ".", record.name, state)
        yield record._replace(state=state)


def _find_patches(folder: Path) -> dict[str, str]:
    """The pictures in a folder of patches: file name → path. Raises ShardError for a name that comes twice, or none."""
    patches: dict[str, str] = {}
    for name, path in pictures_in(str(folder), "", Skipped()):
        base = name.rpartition("/")[2]
        if patches.setdefault(base, path) != path:
            raise ShardError(f"two patch images have one name: {patches[base]} and {path}; remove one of them")
    if not patches:
        raise ShardError(f"{folder}: no pictures to replace others with (--patch-images)")
    return patches


def _count_file(contents: Contents, group: str, name: str, state: str) -> None:
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


def source_name(options: PackOptions) -> str:
    """The source as the manifest names it: text of any locale."""
    return printable(canonical(str(options.source)))
