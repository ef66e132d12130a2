"""Shards → batches: exact order, exact pixels, on the CPU or a GPU.

loader = Loader(ShardSet.open("shards/train"), DataConfig(batch_size=128))
for batch in loader.epoch(0): …
"""

from dali_pipelines.augmentation import Augmentation, draw
from dali_pipelines.config import Batch, DataConfig, LoaderError
from dali_pipelines.loader import Loader
from dali_pipelines.normalize import Normalize
from dali_pipelines.order import EpochOrder

__all__ = ["Augmentation", "Batch", "DataConfig", "EpochOrder", "Loader", "LoaderError", "Normalize", "draw"]
