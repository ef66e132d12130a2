"""How large a split will be and how long packing it takes, judged by some of its pictures beforehand."""

import shutil
import tarfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import RejectedImage, ShardError
from sharding.options import PackOptions
from sharding.shard import member_bytes
from sharding.statistics import Sums
from sharding.worker import pack_picture


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of the pictures still to pack: number, bytes, seconds; and the bytes that the job takes until it ends.

    `spool_bytes` are those of them that go to the spool.
    """

    pictures: int
    bytes: float
    seconds: float
    meanwhile_bytes: float
    spool_bytes: int = 0

    def check_disk(self, out: Path) -> int:
        """The free bytes where `out` will lie. Raises ShardError if the split does not fit there."""
        free = free_bytes(out)
        if self.meanwhile_bytes > free:
            spool = f", {in_words(self.spool_bytes)} of it to spool what is only read in order" * (self.spool_bytes > 0)
            raise ShardError(
                f"{out}: {in_words(free)} free, about {in_words(self.meanwhile_bytes)} needed while packing{spool}; "
                "make room, or choose another OUT or a lower --quality"
            )
        return free


def estimate(
    probe: Iterable[bytes], pictures: int, shards: int, options: PackOptions, summed: bool, spool_bytes: int = 0
) -> Estimate:
    """Pack the pictures of `probe` for nothing, and scale to `pictures` of them in `shards` shards.

    `summed`: sums for the statistics are kept beside each shard until the end; their size counts, as does
    `spool_bytes`, what is still to be spooled.
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
    side_by_side = max(1, min(options.workers, shards))
    return Estimate(
        pictures=pictures,
        bytes=total,
        seconds=each_seconds * pictures / side_by_side,
        meanwhile_bytes=total + (shards * sums.bytes if sums else 0) + spool_bytes,
        spool_bytes=spool_bytes,
    )


def in_words(count: float) -> str:
    """A number of bytes for people: 9.5 MB, 41.2 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk where `folder` is, or will be made."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
