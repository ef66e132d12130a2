"""What a stream of batches is (`DataConfig`), what a batch is before and after it is made, and the errors."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from common.command_line import check_options, option
from common.errors import UserError
from dali_pipelines.augmentation import Augmentation, RecipeName
from sharding import ShardSet


class LoaderError(UserError):
    """Data cannot be delivered as asked: says what, where, and the next command."""


def picture_error(shards: ShardSet, sample: int, fault: str) -> LoaderError:
    """The error for a picture that has no pixels."""
    return LoaderError(str(shards.damaged(sample, fault)))


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the loader delivers; checked when it is made, with ValueError."""

    recipe: RecipeName = option("the program that won, or Krizhevsky 2012: crops, mirrors, noise, mean", "original")
    batch_size: int = option("samples of a global batch, over all ranks", 128, least=1)
    seed: int = option("decides order, crops, mirrors and noise, with the epoch", 0, least=0, most=2**63 - 1)
    device: str = option("where batches are made and delivered: cpu, cuda or cuda:N", "cpu")
    training: bool = option(
        "shuffle, augment, drop the last incomplete global batch; else split order, center crop or ten views", True
    )
    augment: bool = option("training only: random crops, mirrors and color noise; else the center crop", True)
    random_crops: bool = option("training only; False: the center crop, mirrored or not, with color noise", True)
    noise_epochs: int | None = option("training only: how many epochs have color noise; None: all", None, least=0)
    noise_again: tuple[int, int] | None = option(
        "training only: the first of later epochs with color noise, and the first after them; None: no such", None
    )
    views: Literal[1, 10] = option("evaluation only: the center crop, or five and then the five mirrored, by image", 1)
    window: int | None = option(
        "training only: shuffle within so many shards at a time, reading ahead; None: all samples", None, least=1
    )
    normalize: Literal["recipe", "imagenet", "none"] = option(
        "float32 only, color noise stays in each; recipe: mean image off (gray levels of a standard deviation of about "
        "62); imagenet: mean and deviation by channel, as torchvision's networks take them; none: 0..255",
        "recipe",
    )
    output: Literal["float32", "uint8"] = option("normalized batches, or mirrored crops for `Normalize`", "float32")
    prefetch: int = option("batches made ahead of the one in use", 2, least=1)
    threads: int = option("decoding threads; 0: one for each core that this process may use", 0, least=0)
    hardware_decoder_load: Literal[0, 1] = option(
        "cuda only: whether the hardware for JPEGs decodes them, if there is any; pixels differ slightly", 0
    )
    fused: bool = option("cpu only: libjpeg-turbo and one compiled pass; False: the DALI graph, the reference", True)

    def __post_init__(self) -> None:
        check_options(self, named=str)
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device is cpu, cuda or cuda:N, got {self.device!r}")
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


@dataclass(kw_only=True)
class BatchSpec:
    """One rank's part of one global batch, before it is made.

    labels, ids (positions in the split), positions (in the epoch's global order): int64 [n], on the CPU; n may be 0.
    augmentation: what is done to the images, arrays of n·views. samples: of the global batch, over all ranks.
    Labels and ids are pinned where PyTorch sees a GPU, so that `.to(device, non_blocking=True)` does not wait.
    """

    epoch: int
    step: int
    labels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    augmentation: Augmentation
    samples: int


@dataclass(kw_only=True)
class Batch(BatchSpec):
    """A batch that is made; unchanged as long as anything refers to its tensors.

    images: [n·views, 3, 224, 224], channels-last memory, on the loader's device (and pinned, as above): float32
    normalized by the recipe, or uint8 mirrored crops 0..255. Views of one image follow each other.
    wait_seconds: how long the consumer waited for this batch.
    """

    images: torch.Tensor
    wait_seconds: float = 0.0


def to_tensor(values: NDArray[np.generic]) -> torch.Tensor:
    """`values` as a tensor on the CPU: pinned where there is a GPU, to travel without waiting."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if torch.cuda.is_available() else tensor
