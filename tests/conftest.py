"""Pictures for the tests (real photographs where they are, those of scikit-learn elsewhere), and who runs when.

`make test` runs several tests at once (pytest-xdist); a group of tests runs on one worker.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.warm_python import WarmPython

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


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A `python` that starts at once; tests with it are of one group, so that one process has done the imports."""
    warm = WarmPython(tmp_path_factory.mktemp("python"))
    yield warm.program
    warm.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, visibly, the tests marked `gpu` where there is none. Of several workers, each begins with long tests."""
    no_gpu = pytest.mark.skip(reason="no NVIDIA GPU on this machine")
    gpu_is_here = torch.cuda.is_available()
    for item in items:
        if item.get_closest_marker("gpu") and not gpu_is_here:
            item.add_marker(no_gpu)
        if "python" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("warm python"))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """When a test is begun: long ones before short ones, so that no worker ends with one."""
    groups = item.get_closest_marker("xdist_group") is not None  # one after another on one worker: the longest of all
    return 0 if groups else 1 if item.get_closest_marker("slow") else 2
