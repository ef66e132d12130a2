"""Our own loader under the same measurement, and the limit: libjpeg-turbo decoding the same bytes from memory."""

import itertools
from collections.abc import Iterator
from typing import Any

import simplejpeg
import torch

from benchmarks.peers.work import AugmentationTable, Batch, Delivered, Job
from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import RecipeName

SEED = 2012
RECIPE: RecipeName = "paper"


class Peer:
    """`dali_pipelines.Loader`, recipe `paper`; its options are those of `DataConfig`. It draws its own crops."""

    note = ""
    ahead = 0

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        options: dict[str, Any] = dict(job.options)
        if options.get("device") == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("no GPU here")
        config = DataConfig(recipe=RECIPE, seed=SEED, batch_size=job.batch_size, threads=job.workers, **options)
        self._loader = Loader(job.shards(), config)
        self._epochs = itertools.count()

    def epoch(self) -> Iterator[Batch]:
        return self._loader.epoch(next(self._epochs))


class DecodingLimit:
    """Decodes every sample's bytes to 256×256 RGB, one thread; delivers the last picture of each batch."""

    note = "decodes 256×256, no crop, nothing kept"
    ahead = 0

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        shards = job.shards()
        self._encoded = [view.tobytes() for view in shards.images(range(len(shards)))]
        self._batch_size = job.batch_size

    def epoch(self) -> Iterator[Delivered]:
        for start in range(0, len(self._encoded) - self._batch_size + 1, self._batch_size):
            for encoded in self._encoded[start : start + self._batch_size]:
                pixels = simplejpeg.decode_jpeg(encoded)
            yield Delivered(images=torch.from_numpy(pixels)[None], ids=torch.arange(start, start + self._batch_size))
