"""Read a packed split again, all of it, by an independent reader, and name each fault by shard and key."""

import hashlib
import logging
from pathlib import Path

import webdataset

from sharding.errors import RejectedImage, ShardError
from sharding.manifest import Manifest, ShardInfo
from sharding.resize import decode_stored
from sharding.shard import SUFFIX, read_keys

logger = logging.getLogger(__name__)


def verify(folder: Path) -> int:
    """Check every split in `folder` (or the split that it is); logs each fault. Returns 1 if there is any, else 0."""
    splits = [path.parent for path in sorted(folder.glob("*/manifest.json"))]
    if (folder / "manifest.json").exists():
        splits = [folder]
    if not splits:
        raise ShardError(f"{folder}: no packed split here (no manifest.json); make one with: python -m sharding pack")
    faults = [fault for split in splits for fault in _split_faults(split)]
    for fault in faults:
        logger.error("%s", fault)
    return 1 if faults else 0


def _split_faults(folder: Path) -> list[str]:
    manifest = Manifest.load(folder / "manifest.json")
    return [fault for shard in manifest.shards for fault in shard_faults(folder, shard, manifest)]


def shard_faults(folder: Path, shard: ShardInfo, manifest: Manifest) -> list[str]:
    """The faults of one shard, each with its key where it concerns a sample."""
    tar, suffix = folder / shard.name, SUFFIX[manifest.encoding]
    if not tar.exists():
        return [f"{tar}: missing"]
    faults = []
    with tar.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            faults.append(f"{tar}: its SHA-256 is not the manifest's")
    labels = {entry.label for entry in manifest.classes}
    found = []
    for sample in webdataset.WebDataset(str(tar), shardshuffle=False):
        key = sample["__key__"]
        found.append(key)
        try:
            decode_stored(sample[suffix], manifest.encoding)
        except RejectedImage as error:
            faults.append(f"{tar}: {key}: {error}")
        if int(sample["cls"]) not in labels:
            faults.append(f"{tar}: {key}: label {int(sample['cls'])} is not in the class table")
    if found != read_keys(tar.with_suffix(".idx"), suffix):
        faults.append(f"{tar}: the index and the tar do not hold the same keys")
    if len(found) != shard.samples:
        faults.append(f"{tar}: {len(found)} samples, the manifest says {shard.samples}")
    return faults
