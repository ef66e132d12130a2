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
from tqdm import tqdm
from webdataset import tariterators

from sharding.errors import RejectedImage, ShardError
from sharding.executor import open_executor
from sharding.manifest import Manifest, ShardInfo
from sharding.resize import decode_stored
from sharding.shard import SUFFIX, read_index, read_keys
from sharding.statistics import Statistics, Sums

logger = logging.getLogger(__name__)

_FAULTS_LOGGED = 100


@dataclass
class ShardReport:
    """What was found in one shard: each fault in words, and the sums over its pictures."""

    faults: list[str] = field(default_factory=list)
    sums: Sums = field(default_factory=Sums)


def verify(folder: Path, workers: int = 1) -> int:
    """Check every split in `folder` (or the split that it is), and log each fault. Returns 1 if there is any, else 0.

    Checksums, index against tar, every sample (decodes to 256×256×3, label in range), the counts, the statistics.
    """
    splits = [path.parent for path in sorted(folder.glob("*/manifest.json"))]
    if (folder / "manifest.json").exists():
        splits = [folder]
    if not splits:
        raise ShardError(f"{folder}: no packed split here (no manifest.json); make one with: python -m sharding pack")
    found = 0
    for split in splits:
        faults = split_faults(split, workers)
        for fault in faults[:_FAULTS_LOGGED]:
            logger.error("%s", fault)
        logger.info("%s: %s", split, f"{len(faults)} faults" if faults else "every sample is as it must be")
        found += len(faults)
    return 1 if found else 0


def split_faults(folder: Path, workers: int = 1) -> list[str]:
    """Every fault of one split, in words that name the shard, and the key where it concerns a sample."""
    manifest = Manifest.load(folder / "manifest.json")
    named = {shard.name for shard in manifest.shards}
    faults = [f"{path}: not in the manifest" for path in sorted(folder.glob("*.tar")) if path.name not in named]
    total = sum(shard.samples for shard in manifest.shards)
    if total != manifest.samples:
        faults.append(f"{folder}/manifest.json: {manifest.samples} samples, its shards hold {total}")
    sums = Sums()
    with (
        open_executor(workers, preload=__name__) as (executor, _),
        tqdm(total=total, unit="image", desc=f"verify {folder.name}", mininterval=0.5) as bar,
    ):
        futures = {executor.submit(check_shard, folder, shard, manifest): shard for shard in manifest.shards}
        for future in concurrent.futures.as_completed(futures):
            report = future.result()
            faults += report.faults
            sums.merge(report.sums)
            bar.update(futures[future].samples)
    return sorted(faults) + _statistics_faults(folder, sums, bool(faults))


def _statistics_faults(folder: Path, sums: Sums, broken: bool) -> list[str]:
    """Compare statistics.npz, if there is one, with the pictures; not if samples are broken, which says enough."""
    path = folder / "statistics.npz"
    if broken or not path.exists():
        return []
    try:
        stored = Statistics.load(path)
    except ShardError as error:
        return [str(error)]
    counted = sums.finish()
    pairs = {entry.name: (getattr(stored, entry.name), getattr(counted, entry.name)) for entry in fields(Statistics)}
    differing = [name for name, (found, expected) in pairs.items() if not _alike(found, expected)]
    return [f"{path}: {name} is not that of the pictures; pack the split again" for name in differing]


def _alike(found: Any, expected: Any) -> bool:
    """Whether both are numbers of one shape (a broadcast is none), equal but for rounding."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape or not np.issubdtype(found.dtype, np.number):
        return False
    return bool(np.allclose(found, expected, 1e-9, 1e-9))


def check_shard(folder: Path, shard: ShardInfo, manifest: Manifest) -> ShardReport:
    """Read one shard twice: by its index, sample by sample, and by `webdataset`, from end to end."""
    tar, report = folder / shard.name, ShardReport()
    suffix = SUFFIX[manifest.encoding]
    try:
        content = np.memmap(tar, np.uint8, "r")
        index, keys = read_index(tar.with_suffix(".idx"), suffix), read_keys(tar.with_suffix(".idx"), suffix)
    except (OSError, ValueError) as error:
        report.faults.append(f"{tar}: {error}")
        return report
    if content.size != shard.bytes or hashlib.sha256(content.data).hexdigest() != shard.sha256:
        report.faults.append(f"{tar}: {content.size} bytes whose SHA-256 is not the manifest's ({shard.bytes} bytes)")
    if len(index) != shard.samples:
        report.faults.append(f"{tar}: {len(index)} samples in its index, {shard.samples} in the manifest")
    labels = {entry.label for entry in manifest.classes}
    indexed = []
    for key, *places in zip(
        keys, index.picture_start, index.picture_bytes, index.label_start, index.label_bytes, strict=True
    ):
        start, size, label_start, label_size = (int(place) for place in places)
        picture = content[start : start + size].tobytes()
        label = content[label_start : label_start + label_size].tobytes()
        indexed.append((key, hashlib.sha256(picture).digest(), label))
        try:
            report.sums.add(decode_stored(picture, manifest.encoding))
        except RejectedImage as error:
            report.faults.append(f"{tar}: {key}: {error}")
        if not label.isdigit() or int(label) not in labels:
            report.faults.append(f"{tar}: {key}: label {label!r} is not one of the manifest's {len(labels)} classes")
    report.faults += _differences(tar, suffix, indexed)
    return report


def _differences(tar: Path, suffix: str, indexed: list[tuple[str, bytes, bytes]]) -> Iterator[str]:
    """Where the samples that `webdataset` finds in the tar are not those that the index names; the first one tells."""
    try:
        for known, found in zip_longest(indexed, _webdataset_samples(tar)):
            if known is None or found is None:
                yield f"{tar}: {known[0] if known else found['__key__']}: only in the {'index' if known else 'tar'}"
                return
            key, digest, label = known
            content = found.get(suffix, b"")
            if (found["__key__"], hashlib.sha256(content).digest(), found.get("cls")) != (key, digest, label):
                yield f"{tar}: {key}: the index names other bytes than the tar's sample {found['__key__']}"
                return
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        yield f"{tar}: webdataset cannot read it to its end: {error}"


def _webdataset_samples(tar: Path) -> Iterator[dict[str, Any]]:
    with tar.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": str(tar), "stream": stream}])
        yield from tariterators.group_by_keys(files)
