"""The loaders that `loader.py` measures side by side: ours, the limit, and the field's but FFCV (`ffcv_peer.py`).

All do the same work on the same JPEG bytes (`loader_work.py`), so that only how they do it differs: read a 256×256
picture, decode it, crop 224×224, mirror, subtract the mean image's crop, add a color offset, deliver float32 batches of
128. Each is a function of a job that returns what goes once through the samples, written as somebody who knows that
library well would write it.
"""

import itertools
import mmap
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset as wds
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, default_collate

from benchmarks.loader_work import CROP, IMAGE, RECIPE, SEED, Batch, Epoch, Job
from dali_pipelines import DataConfig, Loader

AHEAD = 2  # batches that a worker makes ahead of need: torch's prefetch_factor, SPDL's sink
RING_OPTIONS: dict[str, Any] = {"prefetch_factor": AHEAD, "persistent_workers": True}
DALI_LAPS = 2  # times through DALI's reader in one go, of which it has three batches ready at the start


def turbo(encoded: bytes, buffer: np.ndarray) -> np.ndarray:
    """Decodes with libjpeg-turbo into `buffer`: fresh memory costs a page fault for each 4 KB of pixels."""
    return simplejpeg.decode_jpeg(encoded, buffer=buffer)


def decoding_limit(job: Job) -> Epoch:
    """Decodes every sample's bytes to 256×256 RGB, one thread; delivers the last picture of each batch."""
    encoded = [view.tobytes() for view in job.shards.images(range(len(job.rows)))]

    def epoch() -> Iterator[Batch]:
        for start in range(0, len(encoded) - job.batch_size + 1, job.batch_size):
            for data in encoded[start : start + job.batch_size]:
                pixels = simplejpeg.decode_jpeg(data)
            yield torch.from_numpy(pixels)[None], torch.arange(start, start + job.batch_size)

    return epoch


def ours(job: Job) -> Epoch:
    """`dali_pipelines.Loader`, recipe `paper`; its options are those of `DataConfig`. It draws its own crops."""
    sizes: Any = {"batch_size": job.batch_size, "threads": job.workers}
    loader = Loader(job.shards, DataConfig(recipe=RECIPE, seed=SEED, **sizes, **job.options))
    numbers = itertools.count()

    def epoch() -> Iterator[Batch]:
        for batch in loader.epoch(next(numbers)):
            yield batch.images, batch.ids

    return epoch


class Ring:
    """Float32 batches in memory that threads, or workers forked from this process, fill and the main thread empties.

    There is one for each batch that is asked of the workers, and one in the consumer's hands.
    """

    def __init__(self, job: Job) -> None:
        shape = (job.workers * AHEAD + 1, job.batch_size, CROP, CROP, 3)
        self._batches = np.frombuffer(mmap.mmap(-1, 4 * int(np.prod(shape))), np.float32).reshape(shape)
        self._job, self._free = job, multiprocessing.get_context("fork").SimpleQueue()
        for number in range(len(self._batches)):
            self._free.put(number)

    def fill(self, encoded: Iterable[bytes], ids: Sequence[int]) -> tuple[int, torch.Tensor]:
        """In a worker: decodes and normalizes into a free batch; its number and the ids are what travels."""
        number = self._free.get()
        self._job.normalize(encoded, self._job.rows[ids], self._batches[number], turbo)
        return number, torch.tensor(ids)

    def batches(self, filled: Any) -> Iterator[Batch]:
        """In the main thread: the batches that were filled, each free again when the next one is asked for."""
        for number, ids in filled:
            yield torch.from_numpy(self._batches[number]).permute(0, 3, 1, 2), ids
            self._free.put(number)


def torch_loader(job: Job, collate: Callable[[list[int]], Any], **options: Any) -> DataLoader[Any]:
    """torch's DataLoader, whose workers make a batch of ids what `collate` makes of them."""
    sizes: Any = {"batch_size": job.batch_size, "num_workers": job.workers, "multiprocessing_context": "fork"}
    ids: Any = range(len(job.rows))
    return DataLoader(ids, shuffle=True, drop_last=True, collate_fn=collate, **sizes, **options)


def torch_simplejpeg(job: Job) -> Epoch:
    """torch's DataLoader as fast as its workers go: nothing is collated, copied, or allocated anew.

    A worker is asked for a whole batch, decodes it, and normalizes it into memory that the main process shares.
    """
    ring = Ring(job)
    loader = torch_loader(job, lambda ids: ring.fill(map(job.read, ids), ids), **RING_OPTIONS)
    return lambda: ring.batches(loader)


def as_the_seed(job: Job) -> Epoch:
    """torch's DataLoader in the way of github AsteroidHunter/replicatingAlexNet, its training script.

    Kept from the seed: one file a sample, Pillow's decoder, the mean subtracted from the whole 256×256 picture and in
    planes, then crop, color, mirror, float32, a tensor a sample, torch's own collation, workers started anew for each
    epoch. Not kept: the generator that it seeds with a hash of the file name for each crop; its five workers.
    """
    mean = torch.from_numpy(job.mean_image).permute(2, 0, 1)

    def sample(index: int) -> tuple[torch.Tensor, int]:
        row = job.rows[index]
        top, left = int(row["crop_y"]), int(row["crop_x"])
        picture = torch.from_numpy(np.array(Image.open(job.file(index)))).permute(2, 0, 1)
        crop = (picture - mean)[:, top : top + CROP, left : left + CROP]
        crop = crop + torch.from_numpy(row["rgb_offset"].copy()).reshape(3, 1, 1)
        return (torch.flip(crop, dims=(2,)) if row["mirror"] else crop).to(torch.float32), index

    loader = torch_loader(job, lambda ids: default_collate([sample(index) for index in ids]))
    return lambda: iter(loader)


def webdataset(job: Job) -> Epoch:
    """webdataset on our own tars, which it reads unchanged: shuffled shards, a shuffle buffer, simplejpeg.

    Samples stay encoded in the buffer; where webdataset collates a batch, it is decoded and normalized straight into
    memory that the worker shares with the main process.
    """
    tars = [job.split / name for name in job.shards.shard_names]
    keys = [job.shards.locate(number)[1] for number in range(len(job.shards))]
    numbers, ring = {key: number for number, key in enumerate(keys)}, Ring(job)

    def collate(samples: list[tuple[str, bytes]]) -> Any:
        return ring.fill((encoded for _, encoded in samples), [numbers[key] for key, _ in samples])

    samples = (
        wds.WebDataset([str(tar) for tar in tars], shardshuffle=len(tars), empty_check=False)
        .shuffle(1000)
        .to_tuple("__key__", "jpg")
        .batched(job.batch_size, collation_fn=collate, partial=False)
    )
    workers: Any = {"num_workers": job.workers, "multiprocessing_context": "fork", **RING_OPTIONS}
    loader = wds.WebLoader(samples, batch_size=None, **workers)
    return lambda: ring.batches(loader)


def spdl(job: Job) -> Epoch:
    """SPDL: a thread pipeline (`spdl.pipeline`) with simplejpeg; each thread makes a whole batch."""
    from spdl.pipeline import PipelineBuilder

    ring = Ring(job)
    batches = BatchSampler(RandomSampler(range(len(job.rows))), job.batch_size, drop_last=True)

    def make(ids: list[int]) -> tuple[int, torch.Tensor]:
        return ring.fill(map(job.read, ids), ids)

    def epoch() -> Iterator[Batch]:
        builder: Any = PipelineBuilder()
        stages = builder.add_source(batches).pipe(make, concurrency=job.workers).add_sink(AHEAD)
        pipeline = stages.build(num_threads=job.workers)
        with pipeline.auto_stop():
            yield from ring.batches(pipeline)

    return epoch


@pipeline_def
def _dali_graph(job: Job, shuffled: bool) -> tuple[Any, Any]:
    names = job.shards.shard_names
    read: Any = fn.readers.webdataset(
        paths=[str(job.split / name) for name in names],
        index_paths=[str((job.split / name).with_suffix(".idx")) for name in names],
        ext=["jpg", "cls"],
        random_shuffle=shuffled,
        name="reader",
    )
    encoded, labels = read
    if shuffled:
        left, top = fn.random.uniform(range=[0.0, 1.0]), fn.random.uniform(range=[0.0, 1.0])
        mirror, colors = fn.random.coin_flip(), job.shards.statistics
        root = (colors.eigenvectors * (0.1 * colors.eigenvalues / 255)).astype(np.float32)
        offset = fn.reductions.sum(fn.random.normal(shape=[3]) * types.Constant(root), axes=[1])
    else:
        left, top, mirror, offset = fn.external_source(source=_dali_rows(job), num_outputs=4)
    where: Any = {"crop": (CROP, CROP), "crop_pos_x": left, "crop_pos_y": top}
    crop = fn.flip(fn.decoders.image_crop(encoded, **where), horizontal=mirror)
    mean = fn.flip(fn.crop(types.Constant(job.mean_image), **where), horizontal=mirror)
    return crop - mean + offset, fn.pad(labels)


def _dali_rows(job: Job) -> Iterator[list[np.ndarray]]:
    while True:
        for start in range(0, len(job.rows) - job.batch_size + 1, job.batch_size):
            rows = job.rows[start : start + job.batch_size]
            corners = [(rows[name] / (IMAGE - CROP)).astype(np.float32) for name in ("crop_x", "crop_y")]
            yield [*corners, rows["mirror"].astype(np.int32), rows["rgb_offset"].copy()]


def dali_tutorial(job: Job) -> Epoch:
    """DALI as its tutorials write it: `fn.readers.webdataset`, the fused decoder, operators, `DALIGenericIterator`.

    The reader's shuffle is local, its order has no ids (-1 here), and its position cannot be read or set. So the first
    epoch reads in order and takes crops and colors from the job's rows, for its pixels to be compared; those after it,
    which are timed, are shuffled and draw their own.
    """
    sizes = {"batch_size": job.batch_size, "num_threads": job.workers, "device_id": None, "seed": 0}
    ends: Any = {"reader_name": "reader", "auto_reset": True, "last_batch_policy": LastBatchPolicy.DROP}
    in_order, in_any_order = (
        DALIGenericIterator(_dali_graph(job, shuffled, **sizes), ["images", "labels"], **ends)
        for shuffled in (False, True)
    )
    epochs = itertools.count()

    def epoch() -> Iterator[Batch]:
        is_first = next(epochs) == 0
        laps = [in_order] if is_first else [in_any_order] * DALI_LAPS
        for number, (batch,) in enumerate(itertools.chain(*laps)):
            places = torch.arange(number * job.batch_size, (number + 1) * job.batch_size)
            yield batch["images"].permute(0, 3, 1, 2), places if is_first else torch.full_like(places, -1)

    return epoch
