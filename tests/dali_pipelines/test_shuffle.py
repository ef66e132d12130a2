"""How good the shuffles are: a global permutation, a window of shards, DALI's own buffer, on one class-sorted split.

Two figures: how far samples travel (mean distance between a sample's place in the split and in the epoch, as a share
of the split; independent places give 1/3), and how many of 100 classes the first batch of 128 shows (drawn at random
with replacement: 100·(1 − 0.99^128) = 72).
"""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from dali_pipelines import EpochOrder

SHARDS, PER_SHARD, CLASSES = 20, 1000, 100
SAMPLES = SHARDS * PER_SHARD
SIZES = np.full(SHARDS, PER_SHARD)


def order_of(sizes: np.ndarray, seed: int, epoch: int, window: int | None = None) -> np.ndarray:
    """All ids of an epoch in their order."""
    return EpochOrder(sizes, seed, epoch, window)[np.arange(int(sizes.sum()))]


def shuffle_of(order: np.ndarray) -> tuple[float, int]:
    """(mean distance travelled ÷ samples, classes in the first batch of 128), of ids sorted by class."""
    travelled = np.abs(order - np.arange(len(order))).mean() / len(order)
    return float(travelled), len(set((order[:128] * CLASSES // SAMPLES).tolist()))


@pytest.fixture(scope="module")
def dali_order(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The ids in the order of `fn.readers.webdataset(random_shuffle=True)`, its buffer as it comes (1,024 samples)."""
    folder = tmp_path_factory.mktemp("numbers")
    paths = []
    for shard in range(SHARDS):
        paths.append(folder / f"{shard:02d}.tar")
        with tarfile.open(paths[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
                member = tarfile.TarInfo(f"{sample:06d}.id")
                member.size = 8
                tar.addfile(member, io.BytesIO(np.int64(sample).tobytes()))
    return read_by_dali(paths)


def read_by_dali(paths: list[Path]) -> np.ndarray:
    pipeline = Pipeline(batch_size=500, num_threads=1, device_id=None, seed=7)
    with pipeline:
        numbers = fn.readers.webdataset(paths=[str(path) for path in paths], ext=["id"], random_shuffle=True)
        pipeline.set_outputs(*numbers if isinstance(numbers, (list, tuple)) else (numbers,))
    batches = [np.array(pipeline.run()[0].as_tensor()) for _ in range(SAMPLES // 500)]
    return np.concatenate(batches).view(np.int64).reshape(-1)


def test_the_global_permutation_is_as_good_as_independent_places() -> None:
    figures = [shuffle_of(order_of(SIZES, 0, epoch)) for epoch in range(5)]
    assert len(figures) == 5
    for travelled, classes in figures:
        assert abs(travelled - 1 / 3) < 0.01
        assert 60 <= classes <= 85


@pytest.mark.parametrize(("window", "most_classes"), [(1, 5), (4, 20), (10, 50)])
def test_a_window_moves_shards_as_far_but_shows_the_classes_of_its_shards(window: int, most_classes: int) -> None:
    figures = [shuffle_of(order_of(SIZES, 0, epoch, window)) for epoch in range(5)]
    assert len(figures) == 5
    for travelled, classes in figures:
        assert 0.2 < travelled < 0.45  # the shards' permutation moves them, few shards, so it varies
        assert 0.8 * min(most_classes, 45) <= classes <= most_classes


def test_dalis_buffer_shows_fewer_classes_and_moves_samples_less(dali_order: np.ndarray) -> None:
    assert sorted(dali_order.tolist()) == list(range(SAMPLES))
    travelled, classes = shuffle_of(dali_order)
    assert travelled < 0.1 < 0.2 < min(shuffle_of(order_of(SIZES, 0, epoch, 4))[0] for epoch in range(5))
    assert classes <= 8 < min(shuffle_of(order_of(SIZES, 0, epoch, 4))[1] for epoch in range(5))
