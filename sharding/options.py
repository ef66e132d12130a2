"""What the user may choose for `pack`, `verify`, `show`, `copy`. Light to import, so `--help` answers at once."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.command_line import check_options, flag, option
from sharding.record import Encoding, Layout, Resample, Split

CORES = len(os.sched_getaffinity(0))
"""Cores that this process may use."""

MAX_WORKERS = 4096


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """The options of `pack`; the command line is made from these fields. Raises ValueError for a wrong value."""

    source: Path = option("folder (or archive, or parquet file) of source pictures", metavar="SRC", positional=True)
    out: Path = option("folder for the shards: writes OUT/<split>/", metavar="OUT", positional=True)
    split: Split | None = option("pack this split only (default: train and val where SRC has both, else train)", None)
    val_fraction: float | None = option(
        "share of SRC's pictures that becomes the val split: by a hash of each key, so more pictures move none", None
    )
    layout: Layout = option("how SRC is laid out", "auto")
    classes: Path | None = option(
        "class table: manifest.json of the packed train split (default for val: its own train)", None
    )
    ground_truth: Path | None = option("text file, one class id a line, for val or test pictures in name order", None)
    devkit: Path | None = option("meta.mat of the development kit: class ids, wnids, names", None)
    patch_images: Path | None = option("folder of pictures that replace source pictures of the same name", None)
    resample: Resample = option("how pictures shrink (area: exact average, bicubic where they grow)", "area")
    quality: int = option("JPEG quality, 1 to 100", 95, least=1, most=100)
    encoding: Encoding = option("what a sample holds: a JPEG file, or raw pixels as .npy", "jpeg")
    samples_per_shard: int = option("samples in a shard", 10_000, least=1, most=10_000_000)
    seed: int = option("seed of the training split's shuffled order", 0, least=0, most=2**63 - 1)
    workers: int = option("worker processes", CORES, least=1, most=MAX_WORKERS)
    dry_run: bool = option("say what would be done, how large and how long, and stop", False)
    scheduler: str | None = option("dask scheduler (tcp://…): pack on its workers", None, metavar="ADDRESS")
    max_rejects: int = option("fail if more pictures than this cannot be packed", 100, least=0)
    quiet: bool = option("say nothing but warnings, errors and the last line", False)

    def __post_init__(self) -> None:
        for name in ("source", "out", *_FILES):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))
        check_options(self)
        if self.scheduler is not None and "://" not in self.scheduler:
            raise ValueError(f"--scheduler {self.scheduler}: must be an address, as tcp://node1:8786")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise ValueError(f"--val-fraction {self.val_fraction}: must lie between 0 and 1, as 0.1 does")
        for name in ("split", "ground_truth"):
            if self.val_fraction is not None and getattr(self, name) is not None:
                raise ValueError(f"--val-fraction makes train and val of one source: leave {flag(name)} out")

    def files(self) -> dict[str, Path]:
        """The further files and folders that were given, by the option's name."""
        return {name: getattr(self, name) for name in _FILES if getattr(self, name) is not None}

    def recorded(self, split: Split, layout: str) -> dict[str, Any]:
        """The options on which a split's bytes depend, as its manifest and a half-done job keep them."""
        import PIL
        import simplejpeg

        names = ("resample", "quality", "encoding", "samples_per_shard")
        return {
            "layout": layout,
            **{name: getattr(self, name) for name in names},
            "seed": self.seed if split == "train" else None,
            **({} if self.val_fraction is None else {"val_fraction": self.val_fraction}),
            **{name: str(path) for name, path in self.files().items()},
            "versions": {"pillow": PIL.__version__, "simplejpeg": simplejpeg.__version__},
        }


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The options of `verify`. Raises ValueError for a wrong value."""

    folder: Path = option("a packed split, or a folder of them", metavar="DIR", positional=True)
    workers: int = option("worker processes", CORES, least=1, most=MAX_WORKERS)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """The options of `show`. Raises ValueError for a wrong value."""

    folder: Path = option("a packed split, or a folder of them", metavar="DIR", positional=True)
    png: Path | None = option("where the contact sheet goes (default: DIR's name.png)", None, metavar="FILE")
    samples: int = option("pictures on the sheet", 40, least=1)

    def __post_init__(self) -> None:
        check_options(self)
        if self.png is not None and self.png.suffix.lower() != ".png":
            raise ValueError(f"--png {self.png}: the contact sheet is a PNG; give a name that ends in .png")


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """The options of `copy`. Raises ValueError for a wrong value."""

    source: str = option("packed splits: a folder, or s3://… gs://… hf://… https://…", metavar="SRC", positional=True)
    target: str = option("where the copies go: a folder, or an address", metavar="DST", positional=True)
    workers: int = option("files that are copied at a time", 8, least=1, most=MAX_WORKERS)

    def __post_init__(self) -> None:
        check_options(self)


_FILES = ("classes", "ground_truth", "devkit", "patch_images")
