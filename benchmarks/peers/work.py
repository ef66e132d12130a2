"""The work that every loader is measured on, and the NumPy way of doing it that the Python peers share.

Enters: a packed split and what each epoch does to each sample (`AugmentationTable`). Leaves: float32 pictures.
The work is the recipe `paper`'s: (crop − mean image's crop), mirrored, + color offset; all on the 0..255 scale.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from sharding import ShardSet

IMAGE, CROP = 256, 224
Decoder = Callable[[bytes, np.ndarray], np.ndarray]  # JPEG bytes, a buffer it may use → uint8 [256, 256, 3]
ROW = np.dtype([("crop_y", "<i4"), ("crop_x", "<i4"), ("mirror", "?"), ("rgb_offset", "<f4", 3)])


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a peer is to do: the split, a folder for what it makes of it once, and how to deliver it."""

    split: Path
    prepared: Path
    options: dict[str, object] = field(default_factory=dict)
    batch_size: int = 128
    workers: int = 2
    epochs: int = 1
    """Times through the split for one repeat (more than 1 where the split is kept small)."""

    def shards(self) -> ShardSet:
        """The split, opened."""
        return ShardSet.open(self.split)

    def mean_image(self) -> np.ndarray:
        """The mean image, float32 [256, 256, 3]."""
        return self.shards().statistics.mean_image.astype(np.float32)

    @property
    def files(self) -> Path:
        """A folder with each sample's JPEG bytes as a file, `000000.jpg` on, for peers that read files."""
        return self.prepared / "files"

    def read(self, number: int) -> bytes:
        """The bytes of one of `files` (`open` takes 8 µs less than `Path.open`)."""
        with open(f"{self.files}/{number:06d}.jpg", "rb") as file:  # noqa: PTH123
            return file.read()


@dataclass(kw_only=True)
class Delivered:
    """What a peer's epoch yields: images [n, 3, 224, 224] and the samples' ids, valid until the next one."""

    images: torch.Tensor
    ids: torch.Tensor


class AugmentationTable:
    """Crop, mirror and color offset of every sample, in memory that forked workers share: `rows[id]`.

    `covariance_root` [3, 3] turns three N(0, 1) deviates into gray levels of R, G, B: eigenvectors · 0.1 λ / 255.
    """

    def __init__(self, samples: int, covariance_root: np.ndarray) -> None:
        self.rows = np.frombuffer(mmap.mmap(-1, samples * ROW.itemsize), ROW)
        self.covariance_root = covariance_root

    def draw(self, random: np.random.Generator) -> None:
        """New values for every sample, in place."""
        samples = len(self.rows)
        self.rows["crop_y"] = random.integers(0, IMAGE - CROP + 1, samples)
        self.rows["crop_x"] = random.integers(0, IMAGE - CROP + 1, samples)
        self.rows["mirror"] = random.random(samples) < 0.5
        self.rows["rgb_offset"] = random.standard_normal((samples, 3)) @ self.covariance_root.T


class Peer:
    """A loader under measurement. It may raise ImportError, OSError or RuntimeError when it is made.

    note: what a reader of the table should know. ahead: batches that it has ready before an epoch is asked for, because
    it runs on into the next one. compared: where epochs cannot follow the table, a batch that did.
    """

    note = ""
    ahead = 0
    compared: Delivered | None = None

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        self.job, self.rows, self.mean_image = job, table.rows, job.mean_image()
        flat, mirrored = (IMAGE, IMAGE * 3), np.ascontiguousarray(self.mean_image[:, ::-1])
        self._means = self.mean_image.reshape(flat), mirrored.reshape(flat)

    def epoch(self) -> Iterator[Delivered]:
        """Once through the samples, shuffled, in whole batches."""
        raise NotImplementedError

    def normalize(self, encoded: Iterable[bytes], rows: np.ndarray, out: np.ndarray, decode: Decoder) -> None:
        """JPEG files and their rows → `out` float32 [n, 224, 224, 3], in place, as fast as NumPy and torch do it.

        NumPy's mirrored views of three-channel pixels cost 0.3 to 1 ms a picture; torch's `flip` of the uint8 crop
        and rows taken as flat arrays 0.15 ms.
        """
        buffer = np.empty((IMAGE, IMAGE, 3), np.uint8)
        for data, row, target in zip(encoded, rows, out):
            top, left, mirror = int(row["crop_y"]), int(row["crop_x"]), bool(row["mirror"])
            crop = torch.from_numpy(decode(data, buffer))[top : top + CROP, left : left + CROP]
            crop = crop.flip(1) if mirror else crop.contiguous()
            start = IMAGE - CROP - left if mirror else left
            mean = self._means[mirror][top : top + CROP, 3 * start : 3 * (start + CROP)]
            flat = target.reshape(CROP, CROP * 3)
            np.subtract(crop.numpy().reshape(CROP, CROP * 3), mean, out=flat)
            flat += np.tile(row["rgb_offset"], CROP)


def turbo(encoded: bytes, buffer: np.ndarray) -> np.ndarray:
    """Decodes with libjpeg-turbo into `buffer`: fresh memory costs a page fault for each 4 KB of pixels."""
    return simplejpeg.decode_jpeg(encoded, buffer=buffer)


def made_once(path: Path, make: Callable[[Path], None]) -> None:
    """Calls `make` with a temporary path and renames it to `path`; does nothing where `path` is already there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    make(part)
    part.rename(path)


def write_files(shards: ShardSet, folder: Path) -> None:
    """Each sample's JPEG bytes as `folder/000000.jpg` on."""
    folder.mkdir(exist_ok=True)
    for number in range(len(shards)):
        (folder / f"{number:06d}.jpg").write_bytes(shards.images([number])[0].tobytes())
