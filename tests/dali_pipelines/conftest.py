"""One small split, packed as JPEG and as raw pixels, and statistics in which every mistake shows."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding import PackOptions, ShardSet, Statistics, pack

SAMPLES = 45


@pytest.fixture(scope="session")
def pictures(sample_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders: 40 crops of photographs, and five gradients in which each pixel differs from its neighbors."""
    folder = tmp_path_factory.mktemp("pictures") / "train"
    shutil.copytree(sample_photos, folder)
    (folder / "gradient").mkdir()
    y, x = np.mgrid[:256, :256]
    for number in range(5):
        channels = [x, y, (255 - x + number) % 256]
        pixels = np.stack(channels[number % 3 :] + channels[: number % 3], axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "gradient" / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def jpeg_folder(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed split: 45 samples in five shards of ten (the last of five)."""
    out = tmp_path_factory.mktemp("jpeg")
    return pack(PackOptions(source=pictures, out=out, split="train", samples_per_shard=10, workers=1))[0]


@pytest.fixture(scope="session")
def raw_folder(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples as raw pixels."""
    out = tmp_path_factory.mktemp("raw")
    options = PackOptions(source=pictures, out=out, split="train", samples_per_shard=10, workers=1, encoding="raw")
    return pack(options)[0]


@pytest.fixture
def jpeg_shards(jpeg_folder: Path) -> Iterator[ShardSet]:
    with ShardSet.open(jpeg_folder) as shards:
        yield shards


@pytest.fixture
def raw_shards(raw_folder: Path) -> Iterator[ShardSet]:
    with ShardSet.open(raw_folder) as shards:
        yield shards


@pytest.fixture(scope="session")
def statistics() -> Statistics:
    """A mean image of noise over all gray levels, so that no shift of it passes, and ImageNet's eigenvalues."""
    random = np.random.default_rng(5)
    eigenvectors, _ = np.linalg.qr(random.normal(size=(3, 3)))
    eigenvalues = np.array([14100.0, 1290.0, 410.0])
    return Statistics(
        mean_image=random.uniform(0, 255, size=(256, 256, 3)),
        rgb_mean=np.array([122.0, 116.0, 103.0]),
        rgb_covariance=eigenvectors @ np.diag(eigenvalues) @ eigenvectors.T,
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
        images=SAMPLES,
    )
