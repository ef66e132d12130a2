"""How large a split will be and how long packing it takes, judged by some of its pictures beforehand."""

import shutil
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

from sharding.errors import RejectedImage, ShardError
from sharding.options import PackOptions
from sharding.shard import member_bytes
from sharding.statistics import Sums
from sharding.worker import pack_picture


def estimate(
    probe: Iterable[bytes], pictures: int, shards: int, options: PackOptions, summed: bool, spool_bytes: int = 0
) -> str:
    """Pack the pictures of `probe` for nothing, and scale to `pictures` of them in `shards` shards: size, time, room.

    `summed`: sums for the statistics are kept beside each shard until the end; `spool_bytes` are still to be spooled.
    Returns it in words. Raises ShardError if the split does not fit where it will lie.
    """
    sizes, begun, sums = [], None, Sums() if summed else None
    for data in probe:
        try:
            stored = pack_picture(data, sums, options.quality, options.resample, options.encoding)
        except RejectedImage:
            continue
        if begun is None:  # the first one compiles what the others use
            begun = time.process_time()
        sizes.append(member_bytes(len(stored)) + member_bytes(4))
    each_bytes = sum(sizes) / len(sizes) if sizes else 0.0
    each_seconds = (time.process_time() - begun) / max(len(sizes) - 1, 1) if begun is not None else 0.0
    total = each_bytes * pictures + shards * tarfile.RECORDSIZE
    parts = each_bytes * min(pictures, options.samples_per_shard) * (options.workers > 1)  # of the shard being joined
    needed, free = total + parts + (shards * sums.bytes if sums else 0) + spool_bytes, free_bytes(options.out)
    if needed > free:
        spool = f", {in_words(spool_bytes)} of it to spool what is only read in order" * (spool_bytes > 0)
        raise ShardError(
            f"{options.out}: {in_words(free)} free, about {in_words(needed)} needed while packing{spool}; "
            "make room, or choose another OUT or a lower --quality"
        )
    spool = f", {in_words(spool_bytes)} more for the spool meanwhile" * (spool_bytes > 0)
    return (
        f"about {in_words(total)} in {shards} shard{'s' * (shards != 1)}{spool}; {in_words(free)} free in {options.out}"
        f"; about {each_seconds * pictures / options.workers:.0f} s with {options.workers} workers"
    )


def in_words(count: float) -> str:
    """A number of bytes for people: 9.5 MB, 41.2 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk where `folder` is, or will be made."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
