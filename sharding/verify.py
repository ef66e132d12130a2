"""Read a packed split again, all of it, and name each fault by shard and key.

The tars are read by the `webdataset` library, not by our own reader: what it finds must be what the index says.
"""

import concurrent.futures
import hashlib
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from webdataset import tariterators

from sharding.errors import RejectedImage, ShardError
from sharding.executor import open_executor
from sharding.manifest import Manifest, ShardInfo, file_sha256
from sharding.resize import decode_stored
from sharding.sample_table import TABLE, UNREAD, map_table, rows_of
from sharding.shard import SUFFIX, ShardIndex, read_index, read_keys
from sharding.statistics import Statistics, Sums

logger = logging.getLogger(__name__)

_FAULTS_LOGGED = 100


@dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """One shard to check: its folder, what the manifest says of it, its rows of the table (None without a table)."""

    folder: Path
    shard: ShardInfo
    suffix: str
    labels: frozenset[int]
    index_sha256: str | None
    rows: NDArray[np.void] | None


@dataclass
class ShardReport:
    """What was found in one shard: each fault in words, and the sums over its pictures."""

    faults: list[str] = field(default_factory=list)
    sums: Sums = field(default_factory=Sums)


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
        table = map_table(folder, manifest.shards)
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
        tqdm(total=manifest.samples, unit="image", desc=f"verify {folder.name}", mininterval=0.5) as bar,
    ):
        futures = {executor.submit(check_shard, check): check.shard for check in checks}
        for future in concurrent.futures.as_completed(futures):
            report = future.result()
            faults += report.faults
            broken = broken or bool(report.faults)
            sums.merge(report.sums)
            bar.update(futures[future].samples)
    return sorted(faults) + _statistics_faults(folder, manifest.split, sums, broken)


def _shard_checks(folder: Path, manifest: Manifest, table: NDArray[np.void] | None) -> Iterator[ShardCheck]:
    labels, end = frozenset(entry.label for entry in manifest.classes), 0
    for shard in manifest.shards:
        end += shard.samples
        yield ShardCheck(
            folder=folder,
            shard=shard,
            suffix=SUFFIX[manifest.encoding],
            labels=labels,
            index_sha256=manifest.checksums.get(f"{Path(shard.name).stem}.idx"),
            rows=None if table is None else table[end - shard.samples : end],
        )


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


def check_shard(check: ShardCheck) -> ShardReport:
    """Read one shard twice: by its index, sample by sample, and by `webdataset`, from end to end."""
    shard, tar, report = check.shard, check.folder / check.shard.name, ShardReport()
    path = tar.with_suffix(".idx")
    try:
        content = np.memmap(tar, np.uint8, "r")
        index, keys = read_index(path, check.suffix), read_keys(path, check.suffix)
        index_sha256 = file_sha256(path)
    except (OSError, ValueError, ShardError) as error:  # ValueError: an empty file cannot be mapped
        report.faults.append(f"{tar}: {error}")
        return report
    if content.size != shard.bytes or hashlib.sha256(content.data).hexdigest() != shard.sha256:
        report.faults.append(f"{tar}: {content.size} bytes whose SHA-256 is not the manifest's ({shard.bytes} bytes)")
    if check.index_sha256 not in (None, index_sha256):
        report.faults.append(f"{path}: its SHA-256 is not the manifest's")
    if len(index) != shard.samples:
        report.faults.append(f"{tar}: {len(index)} samples in its index, {shard.samples} in the manifest")
    samples = []
    for key, *positions in zip(
        keys,
        index.picture_start.tolist(),
        index.picture_bytes.tolist(),
        index.label_start.tolist(),
        index.label_bytes.tolist(),
        strict=True,
    ):
        start, size, label_start, label_size = positions
        picture = content[start : start + size].tobytes()
        label = content[label_start : label_start + label_size].tobytes()
        samples.append((key, hashlib.sha256(picture).digest(), label))
        try:
            report.sums.add(decode_stored(picture, "raw" if check.suffix == SUFFIX["raw"] else "jpeg"))
        except RejectedImage as error:
            report.faults.append(f"{tar}: {key}: {error}")
        if not label.isdigit() or int(label) not in check.labels:
            report.faults.append(
                f"{tar}: {key}: label {label!r} is not one of the manifest's {len(check.labels)} classes"
            )
    report.faults += _differences(tar, check.suffix, samples)
    report.faults += _table_faults(check, index, samples)
    return report


def _table_faults(check: ShardCheck, index: ShardIndex, samples: list[tuple[str, bytes, bytes]]) -> Iterator[str]:
    """The first sample of which the table says another thing than index and tar; nothing if they have other faults."""
    if check.rows is None or len(check.rows) != len(index):
        return
    labels = [int(label) if label.isdigit() else UNREAD for _, _, label in samples]
    differing = np.flatnonzero(check.rows != rows_of(index, labels))
    if differing.size:
        key, row = samples[differing[0]][0], check.rows[differing[0]]
        yield f"{check.folder / TABLE}: sample {key} of {check.shard.name}: start, bytes, label {row} are not the tar's"


def _differences(tar: Path, suffix: str, indexed: list[tuple[str, bytes, bytes]]) -> Iterator[str]:
    """Where the samples that `webdataset` reads in the tar are not those that the index names; the first one only."""
    try:
        for known, sample in zip_longest(indexed, _webdataset_samples(tar)):
            if known is None or sample is None:
                yield f"{tar}: {known[0] if known else sample['__key__']}: only in the {'index' if known else 'tar'}"
                return
            key, digest, label = known
            picture = sample.get(suffix, b"")
            if (sample["__key__"], hashlib.sha256(picture).digest(), sample.get("cls")) != (key, digest, label):
                yield f"{tar}: {key}: the index names other bytes than the tar's sample {sample['__key__']}"
                return
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        yield f"{tar}: webdataset cannot read it to its end: {error}"


def _webdataset_samples(tar: Path) -> Iterator[dict[str, Any]]:
    with tar.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": str(tar), "stream": stream}])
        yield from tariterators.group_by_keys(files)
