"""The pictures that benchmarks measure on: real ImageNet-2010 photographs, else those of scikit-learn.

Enters: nothing but what lies on the machine (`IMAGENET2010`, default `../shared/imagenet2010`).
Leaves: a flat folder of photographs, and shards packed from it, in `build/benchmarks/`, made once and kept.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_sample_images

from sharding import PackOptions, ShardSet, pack, prepare_image
from sharding.record import Encoding

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "benchmarks"
PHOTOGRAPHS = 300
FORMAT = 2  # of packed splits: those of another one are packed again


def made_once(path: Path, make: Callable[[Path], None]) -> None:
    """Calls `make` with a temporary path and renames it to `path`; does nothing where `path` is already there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    make(part)
    part.rename(path)


def photographs() -> tuple[tuple[Path, ...], str]:
    """300 files `<wnid>_<id>.JPEG`, and the words that say what they are.

    The ImageNet-2010 photographs where they are, else links to scikit-learn's two, of 640×427 pixels.
    """
    folder = Path(os.environ.get("IMAGENET2010", ROOT.parent / "shared" / "imagenet2010")) / "train-photos"
    what = "ImageNet-2010 photographs"
    if not folder.is_dir():
        folder, what = WORK / "sample-photos", "links to scikit-learn's two photographs"
        made_once(folder, link_sample_photos)
    files = tuple(sorted(folder.glob("*.JPEG")))
    return files, f"{len(files)} {what}"


def link_sample_photos(folder: Path) -> None:
    """Makes 300 links, in turn to china.jpg and flower.jpg."""
    folder.mkdir()
    pictures = load_sample_images().filenames
    for number in range(PHOTOGRAPHS):
        (folder / f"n{number % 2:08d}_{number}.JPEG").symlink_to(pictures[number % 2])


def repeat(files: Sequence[Path], samples: int, folder: Path) -> Path:
    """A flat folder of `samples` links `<wnid>_<id>-<turn>.JPEG` to the files in turn."""
    folder.mkdir(parents=True)
    for number in range(samples):
        turn, index = divmod(number, len(files))
        (folder / f"{files[index].stem}-{turn}.JPEG").symlink_to(files[index])
    return folder


def shards(samples: int, encoding: Encoding = "jpeg", samples_per_shard: int = 1000) -> ShardSet:
    """A training split of `samples` samples: the photographs, each cut once, repeated in turn."""
    files, what = photographs()
    mark = hashlib.sha256(json.dumps([FORMAT, what, samples, encoding, samples_per_shard]).encode()).hexdigest()[:8]
    folder = WORK / f"{encoding}-{samples}-{mark}"

    def make(out: Path) -> None:
        with tempfile.TemporaryDirectory(dir=WORK, prefix="repeated-") as name:
            cut = [Path(name) / file.name for file in files[:samples]]
            for file, target in zip(files, cut):  # 256×256 as packing makes them, so that packing copies bytes
                target.write_bytes(prepare_image(file.read_bytes()))
            source = repeat(cut, samples, Path(name) / "repeated")
            kind: Any = {"split": "train", "encoding": encoding, "samples_per_shard": samples_per_shard}
            pack(PackOptions(source=source, out=out, workers=1, **kind))  # more would start a fork server without torch

    made_once(folder, make)
    return ShardSet.open(folder / "train")


def describe(data: ShardSet) -> dict[str, object]:
    """What a benchmark's file says of its data: pictures, how many, their mean size, and how they were packed."""
    sizes = [view.nbytes for view in data.images(range(min(len(data), PHOTOGRAPHS)))]
    what = {"pictures": photographs()[1], "samples": len(data), "mean_kilobytes": round(np.mean(sizes) / 1000, 1)}
    return {**what, "encoding": data.encoding, "options": data.options}
