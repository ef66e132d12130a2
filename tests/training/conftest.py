"""A small packed data set, and the command line that trains on it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.handmade import pack_splits

CLASSES, IMAGES, VALIDATED, BATCH = 3, 20, 7, 4
STEPS_PER_EPOCH = IMAGES // BATCH
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 training and 7 validation images in 3 classes."""
    folder = tmp_path_factory.mktemp("train-shards")
    return pack_splits(folder, classes=CLASSES, train=IMAGES, val=VALIDATED, encoding="jpeg")


@pytest.fixture(scope="session")
def arguments(shards: Path) -> Arguments:
    """The command line of a run of two epochs of five steps, with further options."""

    def make(run: Path, *more: str) -> list[str]:
        fixed = ["--width", "0.0625", "--epochs", "2", "--batch-size", str(BATCH), "--device", "cpu", "--threads", "1"]
        return ["--shards", str(shards), "--run-dir", str(run), *fixed, *more]

    return make


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Ranks compute with one thread; what they are compared with does too."""
    torch.set_num_threads(1)
