"""Our own loader under the same measurement, and the limit: libjpeg-turbo decoding the same bytes from memory."""

import itertools
from collections.abc import Iterator
from typing import Any

import simplejpeg
import torch

from benchmarks.peers.work import AugmentationTable, Delivered, Job, Peer
from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import RecipeName

SEED = 2012
RECIPE: RecipeName = "paper"


class Ours(Peer):
    """`dali_pipelines.Loader`, recipe `paper`; its options are those of `DataConfig`. It draws its own crops."""

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        super().__init__(job, table)
        options: dict[str, Any] = {"batch_size": job.batch_size, "threads": job.workers, **job.options}
        if options.get("device") == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("no GPU here")
        self._loader = Loader(job.shards(), DataConfig(recipe=RECIPE, seed=SEED, **options))
        self._epochs = itertools.count()

    def epoch(self) -> Iterator[Delivered]:
        for batch in self._loader.epoch(next(self._epochs)):
            yield Delivered(images=batch.images, ids=batch.ids)


class DecodingLimit(Peer):
    """Decodes every sample's bytes to 256×256 RGB, one thread; delivers the last picture of each batch."""

    note = "decodes 256×256, no crop, nothing kept"

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        super().__init__(job, table)
        self._encoded = [view.tobytes() for view in job.shards().images(range(len(self.rows)))]

    def epoch(self) -> Iterator[Delivered]:
        size = self.job.batch_size
        for start in range(0, len(self._encoded) - size + 1, size):
            for encoded in self._encoded[start : start + size]:
                pixels = simplejpeg.decode_jpeg(encoded)
            yield Delivered(images=torch.from_numpy(pixels)[None], ids=torch.arange(start, start + size))
