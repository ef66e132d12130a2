"""DALI as its tutorials write it: `fn.readers.webdataset`, the fused decoder, operators, `DALIGenericIterator`.

The reader's shuffle is local, its order has no ids, and its position cannot be read or set; so the pixels are
compared on a pipeline that reads in order and takes crops and colors from the table; the timed one draws its own.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

from benchmarks.peers.work import CROP, IMAGE, AugmentationTable, Delivered, Job, Peer

LAPS = 2  # times through the reader in one go, since what it has ready at the start is not counted
Node = Any  # DALI's graph nodes have no useful type


@pipeline_def
def _graph(job: Job, root: np.ndarray, table: np.ndarray | None) -> tuple[Node, Node]:
    names = job.shards().shard_names
    read: Node = fn.readers.webdataset(
        paths=[str(job.split / name) for name in names],
        index_paths=[str((job.split / name).with_suffix(".idx")) for name in names],
        ext=["jpg", "cls"],
        random_shuffle=table is None,
        name="reader",
    )
    encoded, labels = read
    left, top, mirror, offset = _drawn(root) if table is None else _from_table(table, job.batch_size)
    where = {"crop": (CROP, CROP), "crop_pos_x": left, "crop_pos_y": top}
    crop = fn.flip(fn.decoders.image_crop(encoded, **where), horizontal=mirror)
    mean = fn.flip(fn.crop(types.Constant(job.mean_image()), **where), horizontal=mirror)
    return crop - mean + offset, fn.pad(labels)


def _drawn(root: np.ndarray) -> tuple[Node, ...]:
    left, top = fn.random.uniform(range=[0.0, 1.0]), fn.random.uniform(range=[0.0, 1.0])
    noise = fn.random.normal(shape=[3]) * types.Constant(root.astype(np.float32))
    return left, top, fn.random.coin_flip(), fn.reductions.sum(noise, axes=[1])


def _from_table(table: np.ndarray, batch_size: int) -> tuple[Node, ...]:
    def feed() -> Iterator[list[np.ndarray]]:
        while True:
            for start in range(0, len(table) - batch_size + 1, batch_size):
                rows = table[start : start + batch_size]
                corners = [(rows[name] / (IMAGE - CROP)).astype(np.float32) for name in ("crop_x", "crop_y")]
                yield [*corners, rows["mirror"].astype(np.int32), rows["rgb_offset"].copy()]

    return tuple(fn.external_source(source=feed(), num_outputs=4))


class DaliTutorial(Peer):
    """The tutorials' graph, shuffled by the reader."""

    note = "shuffles locally, no position to resume from"
    ahead = 3  # two in its queue, one in the iterator

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        super().__init__(job, table)
        self._root = table.covariance_root
        images = next(self._iterator(self.rows))[0]["images"].clone().permute(0, 3, 1, 2)
        self.compared = Delivered(images=images, ids=torch.arange(job.batch_size))
        self._timed = self._iterator(None)

    def epoch(self) -> Iterator[Delivered]:
        for (batch,) in itertools.chain(*[self._timed] * LAPS):
            yield Delivered(images=batch["images"].permute(0, 3, 1, 2), ids=torch.full([self.job.batch_size], -1))

    def _iterator(self, table: np.ndarray | None) -> DALIGenericIterator:
        sizes = {"batch_size": self.job.batch_size, "num_threads": self.job.workers}
        graph = _graph(self.job, self._root, table, device_id=None, seed=0, **sizes)
        outputs, drop = ["images", "labels"], LastBatchPolicy.DROP
        return DALIGenericIterator(graph, outputs, reader_name="reader", auto_reset=True, last_batch_policy=drop)
