"""The limit: libjpeg-turbo decoding the same bytes from memory, one thread, and nothing else."""

from collections.abc import Iterator

import simplejpeg
import torch

from benchmarks.peers.work import AugmentationTable, Delivered, Job


class Peer:
    """Decodes every sample's bytes to 256×256 RGB; delivers the last picture of each batch."""

    note = "decodes 256×256, no crop, nothing kept"
    ahead = 0

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        shards = job.shards()
        self._encoded = [view.tobytes() for view in shards.images(range(len(shards)))]
        self._batch_size = job.batch_size

    def epoch(self) -> Iterator[Delivered]:
        for start in range(0, len(self._encoded) - self._batch_size + 1, self._batch_size):
            for number in range(start, start + self._batch_size):
                pixels = simplejpeg.decode_jpeg(self._encoded[number])
            yield Delivered(images=torch.from_numpy(pixels)[None], ids=torch.arange(start, start + self._batch_size))
