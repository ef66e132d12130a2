"""What the user may choose for a pack job."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import PIL
import simplejpeg

from sharding.record import Layout, Split
from sharding.resize import Resample
from sharding.shard import Encoding

CORES = len(os.sched_getaffinity(0))
"""Cores that this process may use."""

MAX_WORKERS = 4096


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """The options of `pack`; the command line is made from these fields. Raises ValueError for a wrong value."""

    source: Path = field(metadata={"help": "folder (or archive) of source pictures"})
    out: Path = field(metadata={"help": "folder for the shards: writes OUT/<split>/"})
    split: Split | None = field(
        default=None, metadata={"help": "pack this split only (default: train and val where SRC has both, else train)"}
    )
    layout: Layout = field(default="auto", metadata={"help": "how SRC is laid out"})
    classes: Path | None = field(
        default=None,
        metadata={"help": "class table: manifest.json of the packed train split (default for val: its own train)"},
    )
    ground_truth: Path | None = field(
        default=None, metadata={"help": "text file with one class id a line, for val or test pictures in name order"}
    )
    devkit: Path | None = field(
        default=None, metadata={"help": "meta.mat of the development kit: class ids, wnids, names"}
    )
    patch_images: Path | None = field(
        default=None, metadata={"help": "folder of pictures that replace source pictures of the same name"}
    )
    resample: Resample = field(
        default="area", metadata={"help": "how pictures shrink (area: exact average, bicubic where they grow)"}
    )
    quality: int = field(default=95, metadata={"help": "JPEG quality, 1 to 100"})
    encoding: Encoding = field(
        default="jpeg", metadata={"help": "what a sample holds: a JPEG file, or raw pixels as .npy"}
    )
    samples_per_shard: int = field(default=10_000, metadata={"help": "samples in a shard"})
    seed: int = field(default=0, metadata={"help": "seed of the training split's shuffled order"})
    workers: int = field(default=CORES, metadata={"help": "worker processes"})
    dry_run: bool = field(default=False, metadata={"help": "say what would be done, how large and how long, and stop"})
    scheduler: str | None = field(
        default=None, metadata={"help": "address of a dask scheduler (tcp://…): pack on its workers"}
    )
    max_rejects: int = field(default=100, metadata={"help": "fail if more pictures than this cannot be packed"})

    def __post_init__(self) -> None:
        for name in ("source", "out", *_FILES):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))
        for name, lowest, highest in _RANGES:
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be from {lowest} to {highest}")
        for name, kind in (("split", Split), ("layout", Layout), ("resample", Resample), ("encoding", Encoding)):
            value = getattr(self, name)
            if value not in get_args(kind) and not (name == "split" and value is None):
                raise ValueError(f"--{name} {value}: must be one of {', '.join(get_args(kind))}")

    def files(self) -> dict[str, Path]:
        """The further files and folders that were given, by the option's name."""
        return {name: getattr(self, name) for name in _FILES if getattr(self, name) is not None}

    def recorded(self, split: Split, layout: str) -> dict[str, Any]:
        """The options on which a split's bytes depend, as its manifest and a half-done job keep them."""
        return {
            "layout": layout,
            "resample": self.resample,
            "quality": self.quality,
            "encoding": self.encoding,
            "samples_per_shard": self.samples_per_shard,
            "seed": self.seed if split == "train" else None,
            **{name: str(path) for name, path in self.files().items()},
            "versions": {"pillow": PIL.__version__, "simplejpeg": simplejpeg.__version__},
        }


_FILES = ("classes", "ground_truth", "devkit", "patch_images")
_RANGES = (
    ("quality", 1, 100),
    ("samples_per_shard", 1, 10_000_000),
    ("seed", 0, 2**63 - 1),
    ("workers", 1, MAX_WORKERS),
    ("max_rejects", 0, 10**9),
)
