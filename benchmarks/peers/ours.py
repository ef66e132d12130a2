"""Our own loader under the same measurement; its options are those of `DataConfig`."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.peers.work import AugmentationTable, Batch, Job
from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import RecipeName

SEED = 2012
RECIPE: RecipeName = "paper"


class Peer:
    """`dali_pipelines.Loader`, recipe `paper`; draws its own crops, so it takes no plan."""

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
