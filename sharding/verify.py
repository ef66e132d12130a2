"""Read a packed split again, all of it, and name each fault by shard and key.

The tars are read by the `webdataset` library, not by our own reader: what it finds must be what the index says.
"""

import logging
import tarfile
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
from webdataset import tariterators

from sharding.executor import open_executor, progress_bar
from sharding.manifest import Manifest, ShardInfo, file_sha256
from sharding.pictures import decode_stored
from sharding.record import RejectedImage, ShardError
from sharding.shard import SUFFIX, TABLE, Entry, index_text, open_table, rows_of
from sharding.statistics import Statistics, Sums

logger = logging.getLogger(__name__)

_FAULTS_LOGGED = 100


def verify(folder: Path, workers: int = 1) -> int:
    """Check every split in `folder` (or the split that it is), and log each fault. Returns 1 if there is any, else 0.

    Checksums, index and table against tar, every sample (decodes to 256×256×3, label in range), the statistics.
    """
    splits = [path.parent for path in sorted(folder.glob("*/manifest.json"))]
    if (folder / "manifest.json").exists():
        splits = [folder]
    if not splits:
        raise ShardError(f"{folder}: no packed split here (no manifest.json); make one with: python -m sharding pack")
    count = 0
    for split in splits:
        faults = split_faults(split, workers)
        for fault in faults[:_FAULTS_LOGGED]:
            logger.error("%s", fault)
        if len(faults) > _FAULTS_LOGGED:
            logger.error("%s: and %d more", split, len(faults) - _FAULTS_LOGGED)
        logger.info("%s: %s", split, f"{len(faults)} faults" if faults else "every sample is as it must be")
        count += len(faults)
    return 1 if count else 0


def split_faults(folder: Path, workers: int = 1) -> list[str]:
    """Every fault of one split, in words that name the shard, and the key where it concerns a sample."""
    try:
        manifest = Manifest.load(folder / "manifest.json")
    except ShardError as error:
        return [str(error)]
    named, rows = {shard.name for shard in manifest.shards}, None
    faults = [f"{path}: not in the manifest" for path in sorted(folder.glob("*.tar")) if path.name not in named]
    try:
        rows = open_table(folder, manifest) if (folder / TABLE).exists() else None
    except ShardError as error:
        faults.append(str(error))
    for name in sorted(manifest.checksums):
        path = folder / name
        if path.is_file() and file_sha256(path) != manifest.checksums[name]:
            faults.append(f"{path}: its SHA-256 is not the manifest's")
        elif not path.is_file() and path.suffix != ".idx":  # that an index is missing is told with its shard
            faults.append(f"{path}: missing, though the manifest names it")
    sums, before, ends = Sums(), len(faults), np.cumsum([shard.samples for shard in manifest.shards])
    parts = [None] * len(ends) if rows is None else np.split(rows, ends[:-1])
    with open_executor(workers) as (executor, _), progress_bar(manifest.samples, f"verify {folder.name}") as bar:
        checked = executor.map(partial(check_shard, folder, manifest), manifest.shards, parts)
        for shard, (shard_faults, shard_sums) in zip(manifest.shards, checked, strict=True):
            faults += shard_faults
            sums.merge(shard_sums)
            bar.update(shard.samples)
    return sorted(faults) + _statistics_faults(folder, manifest.split, sums, broken=len(faults) > before)


def _statistics_faults(folder: Path, split: str, sums: Sums, broken: bool) -> list[str]:
    """Compare statistics.npz, which a training split must have, with the pictures; not if samples are broken."""
    path = folder / "statistics.npz"
    if not path.exists():
        return [f"{path}: missing; training needs it, pack the split again"] if split == "train" else []
    if broken:
        return []
    try:
        stored = Statistics.load(path)
    except ShardError as error:
        return [str(error)]
    counted = sums.finish()
    names = [entry.name for entry in fields(Statistics)]
    differing = [name for name in names if not np.allclose(getattr(stored, name), getattr(counted, name), 1e-9, 1e-9)]
    return [f"{path}: {name} is not that of the pictures; pack the split again" for name in differing]


def check_shard(folder: Path, manifest: Manifest, shard: ShardInfo, rows: np.ndarray | None) -> tuple[list[str], Sums]:
    """Read one shard with `webdataset`, from end to end; manifest, index and its `rows` of the table must say the same.

    Returns each fault in words, and the sums over the shard's pictures.
    """
    suffix, labels = SUFFIX[manifest.encoding], {row.label for row in manifest.classes}
    tar, faults, sums, entries, unknown = folder / shard.name, list[str](), Sums(), list[Entry](), False
    try:
        if tar.stat().st_size != shard.bytes or file_sha256(tar) != shard.sha256:
            faults.append(f"{tar}: its SHA-256 is not the manifest's, which has {shard.bytes} bytes")
        with tar.open("rb") as stream:
            files = tariterators.tar_file_expander([{"url": str(tar), "stream": stream}])
            for sample in tariterators.group_by_keys(files):
                key, picture, label = sample["__key__"], sample.get(suffix, b""), sample.get("cls", b"")
                try:
                    sums.add(decode_stored(picture, manifest.encoding))
                except RejectedImage as error:
                    faults.append(f"{tar}: {key}: {error}")
                if not label.isdigit() or int(label) not in labels:
                    unknown = True
                    faults.append(f"{tar}: {key}: label {label!r} is not one of the manifest's {len(labels)} classes")
                entries.append(Entry(key, len(picture), int(label) if label.isdigit() else -1))
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        faults.append(f"{tar}: webdataset cannot read it to its end: {error}")
    if len(entries) != shard.samples:
        faults.append(f"{tar}: {len(entries)} samples, {shard.samples} in the manifest")
    if not unknown:  # else the sizes of labels are not known
        faults += _index_faults(tar.with_suffix(".idx"), index_text(entries, suffix))
        if rows is not None and len(rows) == len(entries):
            for at in np.flatnonzero(rows != rows_of(entries))[:1]:
                what = f"sample {entries[at].key} of {shard.name}: start, bytes, label {rows[at]} are not the tar's"
                faults.append(f"{folder / TABLE}: {what}")
    return faults, sums


def _index_faults(path: Path, expected: str) -> Iterator[str]:
    """The first line of the index that is not what `wds2idx` would print for the samples of the tar."""
    if not path.is_file():
        yield f"{path}: missing; make it with `wds2idx {path.with_suffix('.tar')} {path}`"
        return
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    pairs = [*enumerate(zip_longest(lines, expected.splitlines()), 1)]
    for number, (line, by_tar) in pairs[1:] + pairs[:1]:  # the count, which stands first, tells least
        if line != by_tar:
            yield f"{path}: line {number} is {line!r}, by the tar {by_tar!r}; make the index anew with wds2idx"
            return
