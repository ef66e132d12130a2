"""SPDL: a thread pipeline (`spdl.pipeline`) with its own FFmpeg decoder (`spdl.io`), or with simplejpeg in its place.

Two threads each make a whole batch into buffers that are used in turn, so nothing is copied or allocated anew.
FFmpeg's conversion to RGB takes chroma as nearest neighbors where libjpeg-turbo interpolates: its pixels differ.
SPDL finds FFmpeg's shared libraries when it first decodes (Debian: `ffmpeg`); without them it raises RuntimeError.
"""

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import spdl.io
import torch
from spdl.pipeline import PipelineBuilder

from benchmarks.peers.work import CROP, IMAGE, AugmentationTable, Decoder, Delivered, Job, Peer, turbo

AHEAD = 2


def _ffmpeg(encoded: bytes, buffer: np.ndarray) -> np.ndarray:
    return spdl.io.to_numpy(spdl.io.load_image(encoded))


DECODERS: dict[object, Decoder] = {"ffmpeg": _ffmpeg, "simplejpeg": turbo}


class Spdl(Peer):
    """`PipelineBuilder().add_source(ids).pipe(batch, concurrency=2).add_sink()`."""

    note = "threads"

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        super().__init__(job, table)
        self._decode = DECODERS[job.options["decoder"]]
        try:
            self._decode(job.read(0), np.empty((IMAGE, IMAGE, 3), np.uint8))
        except RuntimeError as error:
            raise RuntimeError(f"no FFmpeg for SPDL (Debian: apt-get install ffmpeg): {error}") from error
        self._random = np.random.default_rng(0)
        self._free: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        for _ in range(job.workers + AHEAD + 2):
            self._free.put(np.empty((job.batch_size, CROP, CROP, 3), np.float32))

    def epoch(self) -> Iterator[Delivered]:
        builder: Any = PipelineBuilder()
        pipeline = (
            builder.add_source(self._batches())
            .pipe(self._batch, concurrency=self.job.workers)
            .add_sink(AHEAD)
            .build(num_threads=self.job.workers)
        )
        with pipeline.auto_stop():
            for images, ids in pipeline:
                yield Delivered(images=torch.from_numpy(images).permute(0, 3, 1, 2), ids=torch.from_numpy(ids))
                self._free.put(images)

    def _batches(self) -> Iterator[np.ndarray]:
        size, order = self.job.batch_size, self._random.permutation(len(self.rows))
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]

    def _batch(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = self._free.get()
        self.normalize(map(self.job.read, ids), self.rows[ids], images, self._decode)
        return images, ids
