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
from PIL import Image
from sklearn.datasets import load_sample_images

from sharding import PackOptions, ShardSet, pack, prepare_image
from sharding.record import Encoding

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "benchmarks"
CROPS = 300
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
    """Files `<wnid>_<id>.JPEG` and the words that say what they are.

    The 300 ImageNet-2010 photographs where they are, else 300 crops of scikit-learn's two photographs.
    """
    folder = Path(os.environ.get("IMAGENET2010", ROOT.parent / "shared" / "imagenet2010")) / "train-photos"
    what = "ImageNet-2010 photographs"
    if not folder.is_dir():
        folder, what = WORK / "sample-photos", "crops of scikit-learn's two photographs"
        made_once(folder, cut_sample_photos)
    files = tuple(sorted(folder.glob("*.JPEG")))
    return files, f"{len(files)} {what}"


def cut_sample_photos(folder: Path) -> None:
    """Writes 300 crops, 300 to 427 pixels a side, quality 95, 4:2:0, of china.jpg and flower.jpg."""
    folder.mkdir()
    random = np.random.default_rng(0)
    pictures = load_sample_images().images
    for number in range(CROPS):
        pixels = pictures[number % len(pictures)]
        height, width = random.integers(300, 428, size=2)
        top, left = random.integers(0, 427 - height + 1), random.integers(0, 640 - width + 1)
        crop = Image.fromarray(pixels[top : top + height, left : left + width])
        crop.save(folder / f"n{number % len(pictures):08d}_{number}.JPEG", quality=95, subsampling=2)


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
    out = WORK / f"{encoding}-{samples}-{mark}"
    if not (out / "train" / "manifest.json").exists():
        WORK.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=WORK, prefix="repeated-") as name:
            cut = [Path(name) / file.name for file in files[:samples]]
            for file, target in zip(files, cut):  # 256×256 as packing makes them, so that packing copies bytes
                target.write_bytes(prepare_image(file.read_bytes()))
            source = repeat(cut, samples, Path(name) / "repeated")
            kind: Any = {"split": "train", "encoding": encoding, "samples_per_shard": samples_per_shard}
            pack(PackOptions(source=source, out=out, workers=1, **kind))  # more would start a fork server without torch
    return ShardSet.open(out / "train")


def describe(data: ShardSet) -> dict[str, object]:
    """What a benchmark's file says of its data: pictures, count, mean size, quality, subsampling, repeats."""
    files, what = photographs()
    sizes = [view.nbytes for view in data.images(np.arange(min(len(data), CROPS)))]
    return {
        "pictures": what,
        "samples": len(data),
        "times_repeated": round(len(data) / len(files), 2),
        "encoding": data.encoding,
        "mean_kilobytes": round(float(np.mean(sizes)) / 1000, 1),
        "quality": data.options.get("quality"),
        "subsampling": "4:2:0",
    }
