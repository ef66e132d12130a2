"""webdataset on our own tars, which it reads unchanged: shuffled shards, a shuffle buffer, two workers, simplejpeg.

Samples stay encoded in the buffer; where webdataset collates a batch, it is decoded and standardized straight into
memory that the worker shares with the main process.
"""

from collections.abc import Iterator

import torch
import webdataset as wds

from benchmarks.peers.torch_fast import AHEAD, SharedRing
from benchmarks.peers.work import AugmentationTable, Delivered, Job, Normalizer, turbo
from sharding.shard import SUFFIX, read_keys

SHUFFLE_BUFFER = 1000


class Peer:
    """`wds.WebDataset(…).shuffle(…).to_tuple(…).batched(…)` behind a `wds.WebLoader`."""

    note = "worker processes; shuffles locally"
    ahead = 0

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        shards = job.shards()
        indexes = [(job.split / name).with_suffix(".idx") for name in shards.shard_names]
        keys = [key for index in indexes for key in read_keys(index, SUFFIX["jpeg"])]
        self._ids = {key: number for number, key in enumerate(keys)}
        self._rows, self._ring = table.rows, SharedRing(job.workers, job.batch_size)
        self._normalize = Normalizer(job.mean_image())
        urls = [str(job.split / name) for name in shards.shard_names]
        samples = (
            wds.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
            .shuffle(SHUFFLE_BUFFER)
            .to_tuple("__key__", "jpg")
            .batched(job.batch_size, collation_fn=self._batch, partial=False)
        )
        self._loader = wds.WebLoader(
            samples,
            batch_size=None,
            num_workers=job.workers,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            multiprocessing_context="fork",
        )

    def epoch(self) -> Iterator[Delivered]:
        for place, ids in self._loader:
            yield self._ring.delivered(place, ids)

    def _batch(self, samples: list[tuple[str, bytes]]) -> tuple[tuple[int, int], torch.Tensor]:
        ids = [self._ids[key] for key, _ in samples]
        place, out = self._ring.take()
        self._normalize.batch((encoded for _, encoded in samples), self._rows[ids], out, turbo)
        return place, torch.tensor(ids)
