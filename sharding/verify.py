"""Read a packed split again, all of it, and name each fault by shard and key.

The tars are read by the `webdataset` library, not by our own reader: what it finds must be what the index says.
"""

import concurrent.futures
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from webdataset import tariterators

from sharding.executor import open_executor, progress_bar
from sharding.manifest import Manifest, ShardInfo, file_sha256
from sharding.pictures import decode_stored
from sharding.record import Encoding, RejectedImage, ShardError
from sharding.sample_table import TABLE, open_table
from sharding.shard import SUFFIX, UNREAD, Entry, index_text, rows_of
from sharding.statistics import Statistics, Sums

logger = logging.getLogger(__name__)

_FAULTS_LOGGED = 100


class ShardCheck(NamedTuple):
    """One shard to check: what the manifest says of it, and its rows of the table (None without a table)."""

    tar: Path
    shard: ShardInfo
    encoding: Encoding
    labels: frozenset[int]
    index_sha256: str | None
    rows: NDArray[np.void] | None


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
    named, faults, table = {shard.name for shard in manifest.shards}, [], None
    faults += [f"{path}: not in the manifest" for path in sorted(folder.glob("*.tar")) if path.name not in named]
    try:
        table = open_table(folder, manifest) if (folder / TABLE).exists() else None
    except ShardError as error:
        faults.append(str(error))
    for name in sorted(name for name in manifest.checksums if not name.endswith(".idx")):
        if not (folder / name).is_file():
            faults.append(f"{folder / name}: missing, though the manifest names it")
        elif file_sha256(folder / name) != manifest.checksums[name]:
            faults.append(f"{folder / name}: its SHA-256 is not the manifest's")
    sums, broken = Sums(), False
    checks = _shard_checks(folder, manifest, table)
    with (
        open_executor(workers) as (executor, _),
        progress_bar(manifest.samples, f"verify {folder.name}") as bar,
    ):
        futures = {executor.submit(check_shard, check): check.shard for check in checks}
        for future in concurrent.futures.as_completed(futures):
            shard_faults, shard_sums = future.result()
            faults += shard_faults
            broken = broken or bool(shard_faults)
            sums.merge(shard_sums)
            bar.update(futures[future].samples)
    return sorted(faults) + _statistics_faults(folder, manifest.split, sums, broken)


def _shard_checks(folder: Path, manifest: Manifest, table: NDArray[np.void] | None) -> Iterator[ShardCheck]:
    labels, end = frozenset(entry.label for entry in manifest.classes), 0
    for shard in manifest.shards:
        end += shard.samples
        index_sha256 = manifest.checksums.get(f"{Path(shard.name).stem}.idx")
        rows = None if table is None else table[end - shard.samples : end]
        yield ShardCheck(folder / shard.name, shard, manifest.encoding, labels, index_sha256, rows)


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


def check_shard(check: ShardCheck) -> tuple[list[str], Sums]:
    """Read one shard with `webdataset`, from end to end; index, table and manifest must say what is found there.

    Returns each fault in words, and the sums over the shard's pictures.
    """
    tar, shard, faults, sums = check.tar, check.shard, list[str](), Sums()
    suffix, entries, unknown = SUFFIX[check.encoding], list[Entry](), False
    try:
        if tar.stat().st_size != shard.bytes or file_sha256(tar) != shard.sha256:
            faults.append(f"{tar}: its SHA-256 is not the manifest's, which has {shard.bytes} bytes")
        for sample in _webdataset_samples(tar):
            key, picture, label = sample["__key__"], sample.get(suffix, b""), sample.get("cls", b"")
            try:
                sums.add(decode_stored(picture, check.encoding))
            except RejectedImage as error:
                faults.append(f"{tar}: {key}: {error}")
            if not label.isdigit() or int(label) not in check.labels:
                unknown = True
                classes = len(check.labels)
                faults.append(f"{tar}: {key}: label {label!r} is not one of the manifest's {classes} classes")
            entries.append(Entry(key, len(picture), int(label) if label.isdigit() else UNREAD))
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        faults.append(f"{tar}: webdataset cannot read it to its end: {error}")
    if len(entries) != shard.samples:
        faults.append(f"{tar}: {len(entries)} samples, {shard.samples} in the manifest")
    if not unknown:  # else the sizes of labels are not known
        faults += [*_index_faults(check, entries), *_table_faults(check, entries)]
    return faults, sums


def _index_faults(check: ShardCheck, entries: list[Entry]) -> Iterator[str]:
    """The first line of the index that is not what `wds2idx` would print for the samples of the tar."""
    path = check.tar.with_suffix(".idx")
    if not path.is_file():
        yield f"{path}: missing; make it with `wds2idx {check.tar} {path}`"
        return
    if check.index_sha256 not in (None, file_sha256(path)):
        yield f"{path}: its SHA-256 is not the manifest's"
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    expected = index_text(entries, SUFFIX[check.encoding]).splitlines()
    pairs = [*enumerate(zip_longest(lines, expected), 1)]
    for number, (line, by_tar) in pairs[1:] + pairs[:1]:  # the count, which stands first, tells least
        if line != by_tar:
            yield f"{path}: line {number} is {line!r}, by the tar {by_tar!r}; make the index anew with wds2idx"
            return


def _table_faults(check: ShardCheck, entries: list[Entry]) -> Iterator[str]:
    """The first sample of which the table says another thing than the tar; nothing if they are not as many."""
    if check.rows is None or len(check.rows) != len(entries):
        return
    differing = np.flatnonzero(check.rows != rows_of(entries))
    if differing.size:
        key, row = entries[differing[0]].key, check.rows[differing[0]]
        table = check.tar.with_name(TABLE)
        yield f"{table}: sample {key} of {check.shard.name}: start, bytes, label {row} are not the tar's"


def _webdataset_samples(tar: Path) -> Iterator[dict[str, Any]]:
    with tar.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": str(tar), "stream": stream}])
        yield from tariterators.group_by_keys(files)
