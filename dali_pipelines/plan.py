"""What one rank makes for one step: which samples, from which bytes, with which augmentation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.augmentation import Augmentation


@dataclass(frozen=True, kw_only=True)
class Plan:
    """ids, positions, labels: int64 [n]; images: n views of the mapped shards (JPEG bytes or raw pixels)."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    images: list[NDArray[np.uint8]]
    augmentation: Augmentation
    samples: int

    def __len__(self) -> int:
        return len(self.ids)
