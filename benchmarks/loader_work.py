"""The work that every loader is measured on, and a loader under measurement.

Enters: a packed split. Leaves: float32 pictures, and what it took to make them. The work is the recipe `paper`'s:
(crop − mean image's crop), mirrored, + color offset; all on the 0..255 scale.
"""

import importlib
import mmap
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Repeat, cpu_seconds, forget_peaks, peak_bytes, waits
from dali_pipelines.augmentation import RecipeName, draw
from sharding import ShardSet
from sharding.pictures import decode_stored

IMAGE, CROP = 256, 224
RECIPE: RecipeName = "paper"
SEED = 2012
COMPARED = 16  # pictures of the first batch
SAME = 1e-2  # gray levels: float32 sums in another order
ROW = np.dtype([("crop_y", "<i4"), ("crop_x", "<i4"), ("mirror", "?"), ("rgb_offset", "<f4", 3)])
Decoder = Callable[[bytes, np.ndarray], np.ndarray]  # JPEG bytes, a buffer it may use → uint8 [256, 256, 3]
Batch = tuple[torch.Tensor, torch.Tensor]  # images [n, 3, 224, 224] and their ids [n], valid until the next one
Epoch = Callable[[], Iterator[Batch]]  # once through the samples, shuffled, in whole batches


class Job:
    """What a loader is to do, in its process: `batch_size` samples of a split at once, by so many `workers`.

    prepared: the folder for what it makes of the split once. options: its own. epochs: times through the split for one
    repeat (more than 1 where the split is kept small). rows: what is done to each sample, `ROW`s in memory that forked
    workers share. mean_image: float32 [256, 256, 3].
    """

    def __init__(self, split: Path, options: dict[str, Any], batch_size: int = 128, epochs: int = 1) -> None:
        self.split, self.prepared, self.options = split, split.parent / "peers", options
        self.batch_size, self.workers, self.epochs = batch_size, 2, epochs
        self.shards = ShardSet.open(split)
        self.mean_image = self.shards.statistics.mean_image.astype(np.float32)
        mirrored = np.ascontiguousarray(self.mean_image[:, ::-1])
        self._means = self.mean_image.reshape(IMAGE, IMAGE * 3), mirrored.reshape(IMAGE, IMAGE * 3)
        self.rows = np.frombuffer(mmap.mmap(-1, len(self.shards) * ROW.itemsize), ROW)
        self.draw(0)

    def draw(self, epoch: int) -> None:
        """Into `rows`: what our loader does to each sample in that epoch."""
        ids = np.arange(len(self.rows))
        drawn = draw(RECIPE, SEED, epoch, ids, ids, self.shards.statistics)
        for name in ROW.names or ():
            self.rows[name] = getattr(drawn, name)

    def file(self, number: int) -> str:
        """The file with a sample's JPEG bytes, for loaders that read files."""
        return f"{self.prepared}/files/{number:06d}.jpg"

    def read(self, number: int) -> bytes:
        """Its bytes (`open` takes 8 µs less than `Path.open`)."""
        with open(self.file(number), "rb") as file:  # noqa: PTH123
            return file.read()

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

    def expected(self, number: int) -> np.ndarray:
        """A sample's picture float64 [224, 224, 3] as plain NumPy makes it, for comparison."""
        stored, row = self.shards.images([number])[0], self.rows[number]
        pixels = decode_stored(stored.tobytes(), "jpeg") if self.shards.encoding == "jpeg" else stored
        top, left = row["crop_y"], row["crop_x"]
        crop = (pixels - self.shards.statistics.mean_image)[top : top + CROP, left : left + CROP]
        return (crop[:, ::-1] if row["mirror"] else crop) + row["rgb_offset"]


class MeasuredLoader:
    """A loader of this package, `module:function` of a job that `make_job` makes, ready to be measured.

    CPU time is counted from the end of one repeat to the end of the next, so that what a loader prepares in
    between, while others have their turn, is on its own bill.
    """

    def __init__(self, loader: str, make_job: Callable[[], Job]) -> None:
        torch.set_num_threads(1)
        module, _, function = loader.partition(":")
        self._job, self._epochs = make_job(), 0
        self._epoch: Epoch = getattr(importlib.import_module(f"benchmarks.{module}"), function)(self._job)
        self._cpu_seconds = cpu_seconds()

    def repeat(self) -> Repeat:
        """All epochs of one repeat, as fast as the loader delivers, with new crops and colors."""
        forget_peaks()
        start = asked = time.perf_counter()
        images, waited = 0, []
        for _ in range(self._job.epochs):
            self._epochs += 1
            self._job.draw(self._epochs)
            for _, ids in self._epoch():
                waited.append(time.perf_counter() - asked)
                images += len(ids)
                asked = time.perf_counter()
        seconds = time.perf_counter() - start
        before, self._cpu_seconds = self._cpu_seconds, cpu_seconds()
        spent = self._cpu_seconds - before
        return Repeat(images=images, seconds=seconds, cpu_seconds=spent, peak_bytes=peak_bytes(), **waits(waited))

    def compare(self) -> str:
        """What the table says of the pictures of its first batch beside plain NumPy's.

        It is asked before anything is measured: ours then does what the job's rows say.
        """
        gaps: list[np.ndarray] = []
        for images, ids in self._epoch():
            for image, number in zip(images[: COMPARED - len(gaps)], ids.tolist()):
                gaps.append(np.abs(image.permute(1, 2, 0).numpy() - self._job.expected(number)))
        self._cpu_seconds = cpu_seconds()
        mean, largest = np.mean(gaps), np.max(gaps)
        return "same pixels" if largest <= SAME else f"PIXELS DIFFER by {mean:.2f} gray levels, at most {largest:.0f}"
