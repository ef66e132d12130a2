"""What a stream of batches is (`DataConfig`), what a batch is before and after it is made, and the errors."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError
from dali_pipelines.augmentation import VIEWS, Augmentation, RecipeName
from sharding import ShardSet


class LoaderError(UserError):
    """Data cannot be delivered as asked: says what, where, and the next command."""


def picture_error(shards: ShardSet, sample: int, fault: str) -> LoaderError:
    """The error for a picture that has no pixels."""
    shard, key = shards.locate(sample)
    return LoaderError(
        f"{shards.path}/{shard}: sample {key} {fault}; check the set with: python -m sharding verify {shards.path}"
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the loader delivers; checked when it is made, with ValueError."""

    recipe: RecipeName = "original"
    """`original` (the program that won) or `paper` (Krizhevsky 2012): crops, mirrors, noise, use of the mean."""
    batch_size: int = 128
    """Samples of a global batch, over all ranks."""
    seed: int = 0
    """Decides order, crops, mirrors and noise, with the epoch."""
    device: str = "cpu"
    """Where batches are made and delivered: `cpu`, `cuda` or `cuda:1`."""
    training: bool = True
    """Shuffle, augment and drop the last incomplete global batch; else split order, center crop or ten views."""
    augment: bool = True
    """Training only: random crops, mirrors and color noise; else the center crop."""
    random_crops: bool = True
    """Training only: False takes the center crop, mirrored or not, with color noise."""
    noise_epochs: int | None = None
    """Training only: the number of epochs, from the first, with color noise; None means all."""
    noise_again: tuple[int, int] | None = None
    """Training only: the first of later epochs with color noise, and the first after them; None means no such."""
    views: int = 1
    """Evaluation only: 1 (center crop) or 10 (five crops, then the five mirrored, of each image in turn)."""
    window: int | None = None
    """Training only: shuffle within this many shards at a time, reading ahead; None shuffles all samples."""
    normalize: Literal["recipe", "imagenet", "none"] = "recipe"
    """float32 only. `recipe`: mean image off (gray levels of a standard deviation of about 62); `imagenet`: the mean
    and deviation of each channel that torchvision's networks take; `none`: 0..255. Color noise stays in each."""
    output: Literal["float32", "uint8"] = "float32"
    """Standardized batches, or mirrored crops for `Normalize`."""
    prefetch: int = 2
    """Batches made ahead of the one in use."""
    threads: int = 0
    """Decoding threads; 0 means one for each core that this process may use."""
    hardware_decoder_load: float = 0.0
    """Device cuda only: 1: JPEGs are decoded by the hardware for them, if any; 0: none are. Pixels differ slightly."""
    fused: bool = True
    """Device cpu only: libjpeg-turbo and one compiled pass; False: the DALI graph that runs on GPUs, the reference."""

    def __post_init__(self) -> None:
        rules = {
            "recipe": (self.recipe in ("original", "paper"), "original or paper"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "seed": (0 <= self.seed < 2**63, "0 to 2^63-1"),
            "device": (re.fullmatch(r"cpu|cuda(:\d+)?", self.device), "cpu, cuda or cuda:N"),
            "noise_epochs": (self.noise_epochs is None or self.noise_epochs >= 0, "None or at least 0"),
            "views": (self.views in (1, VIEWS), f"1 or {VIEWS}"),
            "window": (self.window is None or self.window >= 1, "None or at least 1"),
            "normalize": (self.normalize in ("recipe", "imagenet", "none"), "recipe, imagenet or none"),
            "output": (self.output in ("float32", "uint8"), "float32 or uint8"),
            "prefetch": (self.prefetch >= 1, "at least 1"),
            "threads": (self.threads >= 0, "at least 0"),
            "hardware_decoder_load": (self.hardware_decoder_load in (0, 1), "0 or 1"),
        }
        for field, (holds, expected) in rules.items():
            if not holds:
                raise ValueError(f"{field} {getattr(self, field)!r}: expected {expected}")
        if self.training and self.views != 1:
            raise ValueError(f"views {self.views} with training: ten views are for evaluation (training=False)")

    @property
    def is_cuda(self) -> bool:
        """Whether batches are made on a GPU."""
        return self.device != "cpu"

    def has_noise(self, epoch: int) -> bool:
        """Whether `epoch` (from 0) has color noise."""
        again = self.noise_again is not None and epoch in range(*self.noise_again)
        noisy = self.noise_epochs is None or epoch < self.noise_epochs or again
        return self.training and self.augment and noisy


@dataclass(frozen=True)
class BatchSpec:
    """One rank's part of the global batch `step`, before it is made. ids, positions, labels: int64 [n]."""

    step: int
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    augmentation: Augmentation
    samples: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(kw_only=True)
class Batch:
    """One rank's part of one global batch; unchanged as long as anything refers to its tensors.

    images: [n·views, 3, 224, 224], channels-last memory, on the loader's device: float32 normalized by the
    recipe, or uint8 mirrored crops 0..255. Views of one image follow each other. n may be 0. Whatever the loader
    delivers on the CPU is pinned where PyTorch sees a GPU, so that `.to(device, non_blocking=True)` does not wait.
    labels, ids (positions in the split), positions (in the epoch's global order): int64 [n], on the CPU.
    augmentation: what was done to the images, arrays of n·views. samples: of the global batch, over all ranks.
    wait_seconds: how long the consumer waited for this batch.
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    epoch: int
    step: int
    augmentation: Augmentation
    samples: int
    wait_seconds: float = 0.0


def to_tensor(values: NDArray[np.generic]) -> torch.Tensor:
    """`values` as a tensor on the CPU: pinned where there is a GPU, to travel without waiting."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if torch.cuda.is_available() else tensor
