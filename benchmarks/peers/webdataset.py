"""webdataset on our own tars, which it reads unchanged: shuffled shards, a shuffle buffer, two workers, simplejpeg.

Samples stay encoded in the buffer; where webdataset collates a batch, it is decoded and normalized straight into
memory that the worker shares with the main process.
"""

from collections.abc import Iterator

import torch
import webdataset as wds

from benchmarks.peers.torch_loader import AHEAD, SharedRing
from benchmarks.peers.work import AugmentationTable, Delivered, Job, Peer, turbo
from sharding.manifest import SUFFIX
from sharding.shard import read_keys

SHUFFLE_BUFFER = 1000


class Webdataset(Peer):
    """`wds.WebDataset(…).shuffle(…).to_tuple(…).batched(…)` behind a `wds.WebLoader`."""

    note = "worker processes; shuffles locally"

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        super().__init__(job, table)
        tars = [job.split / name for name in job.shards().shard_names]
        keys = [key for tar in tars for key in read_keys(tar.with_suffix(".idx"), SUFFIX["jpeg"])]
        self._ids = {key: number for number, key in enumerate(keys)}
        self._ring = SharedRing(job.workers, job.batch_size)
        samples = (
            wds.WebDataset([str(tar) for tar in tars], shardshuffle=len(tars), empty_check=False)
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
        for slot, ids in self._loader:
            yield self._ring.delivered(slot, ids)

    def _batch(self, samples: list[tuple[str, bytes]]) -> tuple[tuple[int, int], torch.Tensor]:
        ids = [self._ids[key] for key, _ in samples]
        slot, out = self._ring.take()
        self.normalize((encoded for _, encoded in samples), self.rows[ids], out, turbo)
        return slot, torch.tensor(ids)
