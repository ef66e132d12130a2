"""Pictures for the tests: real ImageNet-2010 photographs where they are, those of scikit-learn elsewhere."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def imagenet2010() -> Path:
    """The folder of real ImageNet-2010 files (photographs, meta.mat, ground truth); skips where it is absent."""
    folder = Path(os.environ.get("IMAGENET2010", ROOT.parent / "shared" / "imagenet2010"))
    if not (folder / "train-photos").is_dir():
        pytest.skip(f"no ImageNet-2010 photographs in {folder} (set IMAGENET2010)")
    return folder


@pytest.fixture(scope="session")
def photos(imagenet2010: Path) -> Path:
    """300 photographs `<wnid>_<id>.JPEG` of many sizes, one flat folder."""
    return imagenet2010 / "train-photos"


@pytest.fixture(scope="session")
def sample_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders `china/`, `flower/`, 20 crops each of the two photographs that ship inside scikit-learn.

    JPEG quality 90, 4:2:0, sizes between 260 and 420 pixels a side: the same on every machine.
    """
    folder = tmp_path_factory.mktemp("sample-photos")
    random = np.random.default_rng(0)
    for name, pixels in zip(("china", "flower"), load_sample_images().images):
        (folder / name).mkdir()
        for number in range(20):
            height, width = random.integers(260, 421, size=2)
            top, left = random.integers(0, 427 - height + 1), random.integers(0, 640 - width + 1)
            crop = pixels[top : top + height, left : left + width]
            Image.fromarray(crop).save(folder / name / f"{name}-{number:02d}.jpg", quality=90, subsampling=2)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, visibly, the tests marked `gpu` on a machine that has none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))
