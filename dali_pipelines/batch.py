"""What a batch is before it is made (`BatchSpec`) and after (`Batch`), and the memory that it lies in."""

import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dali_pipelines.augmentation import CROP, Augmentation


@dataclass(kw_only=True)
class Batch:
    """One rank's part of one global batch; unchanged as long as anything refers to its tensors.

    images: [n·views, 3, 224, 224], channels-last memory, on the loader's device: float32 normalized by the
    recipe, or uint8 mirrored crops 0..255. Views of one image follow each other. n may be 0. Whatever the loader
    delivers on the CPU is pinned where PyTorch sees a GPU, so that `.to(device, non_blocking=True)` does not wait.
    """

    images: torch.Tensor
    labels: torch.Tensor
    """int64 [n], on the CPU."""
    ids: torch.Tensor
    """int64 [n], position in the split, on the CPU."""
    positions: torch.Tensor
    """int64 [n], position in the epoch's global order, on the CPU."""
    epoch: int
    step: int
    augmentation: Augmentation
    """What was done to the images: arrays of n·views."""
    samples: int
    """Samples of the global batch, over all ranks."""
    wait_seconds: float = 0.0
    """How long the consumer waited for this batch."""


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """One rank's part of the global batch `step`. ids, positions, labels: int64 [n]."""

    step: int
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    augmentation: Augmentation
    samples: int

    def __len__(self) -> int:
        return len(self.ids)


class BufferPool:
    """Memory for batches of up to `images` crops. It comes back when the last tensor that refers to it is gone.

    A tensor made by `torch.from_numpy` keeps the array alive as long as its storage lives, which every view and slice
    of it shares. So the memory returns when the array that a batch was made from is collected. A consumer that keeps
    batches makes the pool grow; `spare` buffers are kept for the next batches, what returns beyond them is freed.

    Where there is a GPU each batch is pinned memory of PyTorch's own, which keeps the same promise towards the GPU: its
    allocator gives a freed block out again only when the events have passed that it recorded, while freeing, on each
    stream that a non-blocking copy used (`free` and `process_events` in ATen/core/CachingHostAllocator.h).
    """

    def __init__(self, images: int, dtype: torch.dtype, spare: int) -> None:
        self._shape, self._dtype, self._pinned = (images, CROP, CROP, 3), dtype, torch.cuda.is_available()
        self._free: deque[NDArray[np.generic]] = deque(maxlen=spare)

    def take(self, images: int) -> torch.Tensor:
        """Memory for `images` crops: [images, 3, 224, 224], channels-last, with what was in it before."""
        if self._pinned:
            return torch.empty(self._shape, dtype=self._dtype, pin_memory=True)[:images].permute(0, 3, 1, 2)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self._shape, np.uint8 if self._dtype == torch.uint8 else np.float32)
        array = memory[:images]
        weakref.finalize(array, self._free.append, memory).atexit = False
        return torch.from_numpy(array).permute(0, 3, 1, 2)

    def close(self) -> None:
        """Free what is not in use, now, and what is in use, when it returns."""
        self._free = deque(maxlen=0)


def to_tensor(values: NDArray[np.generic]) -> torch.Tensor:
    """`values` as a tensor on the CPU: pinned where there is a GPU, to travel without waiting."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if torch.cuda.is_available() else tensor
