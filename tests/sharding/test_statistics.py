"""Sums against NumPy in float64 and scikit-learn's IncrementalPCA; their order, their split and their size."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import IncrementalPCA

from sharding import ShardError
from sharding.statistics import Statistics, Sums


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, 256, 256, 3] whose channels hang together, each in its own way."""
    random = np.random.default_rng(seed)
    gray = random.normal(120, 60, size=(count, 256, 256, 1))
    tint = random.normal(0, [12, 25, 40], size=(count, 256, 256, 3))
    return np.clip(gray + tint + np.array([10, 0, -15]), 0, 255).astype(np.uint8)


def sums_of(images: np.ndarray) -> Sums:
    sums = Sums()
    for image in images:
        sums.add(image)
    return sums


def test_equal_to_numpy_over_all_pixels() -> None:
    images = pictures(7)
    found = sums_of(images).finish()
    pixels = images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(found.mean_image, images.astype(np.float64).mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.rgb_mean, pixels.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.rgb_covariance, np.cov(pixels.T, bias=True), rtol=1e-11)
    assert found.images == 7 and found.mean_image.shape == (256, 256, 3) and found.mean_image.dtype == np.float64


def test_eigenpairs_are_those_of_incremental_pca() -> None:
    images = pictures(6, seed=1)
    found = sums_of(images).finish()
    pca = IncrementalPCA(n_components=3)
    for image in images:
        pca.partial_fit(image.reshape(-1, 3).astype(np.float64))
    count = images.size // 3
    np.testing.assert_allclose(found.eigenvalues, pca.explained_variance_ * (count - 1) / count, rtol=1e-6)
    for place in range(3):
        ours, theirs = found.eigenvectors[:, place], pca.components_[place]
        assert abs(ours @ theirs) == pytest.approx(1, abs=1e-6)
        assert ours[np.abs(ours).argmax()] > 0
    assert (np.diff(found.eigenvalues) < 0).all()
    np.testing.assert_allclose(
        found.rgb_covariance @ found.eigenvectors, found.eigenvectors * found.eigenvalues, rtol=1e-9, atol=1e-9
    )


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 6), max_size=4), seed=st.integers(0, 3))
def test_any_split_and_order_gives_the_same_bits(cuts: list[int], seed: int) -> None:
    images = pictures(6, seed=2)
    whole = sums_of(images).finish()
    shuffled = images[np.random.default_rng(seed).permutation(6)]
    merged = Sums()
    for part in np.split(shuffled, sorted(cuts)):
        merged.merge(sums_of(part))
    again = merged.finish()
    for name in ("mean_image", "rgb_mean", "rgb_covariance", "eigenvalues", "eigenvectors"):
        assert getattr(again, name).tobytes() == getattr(whole, name).tobytes()


def test_fourteen_million_white_and_black_pictures_do_not_overflow() -> None:
    half = 7_000_000
    white = Sums(half, np.full((256, 256, 3), 255 * half, np.int64), np.full((3, 3), 255**2 * 65536 * half, np.int64))
    white.merge(Sums(images=half))
    found = white.finish()
    assert found.images == 14_000_000
    assert (found.mean_image == 127.5).all() and (found.rgb_mean == 127.5).all()
    np.testing.assert_allclose(found.rgb_covariance, 127.5**2, rtol=1e-14)


def test_sums_and_statistics_survive_the_disk(tmp_path: Path) -> None:
    sums = sums_of(pictures(2))
    np.savez(tmp_path / "sums.npz", **vars(sums))
    again = Sums.load(tmp_path / "sums.npz")
    assert (
        again.images == 2 and (again.by_position == sums.by_position).all() and (again.products == sums.products).all()
    )
    for name in ("a.npz", "b.npz"):
        sums.finish().save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = Statistics.load(tmp_path / "a.npz")
    assert loaded.images == 2 and isinstance(loaded.images, int)
    assert (loaded.rgb_covariance == sums.finish().rgb_covariance).all()
    with np.load(tmp_path / "a.npz") as arrays:
        assert set(arrays) == {"mean_image", "rgb_mean", "rgb_covariance", "eigenvalues", "eigenvectors", "images"}


def test_pictures_of_other_shapes_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(256, 256, 3\)"):
        Sums().add(np.zeros((224, 224, 3), np.uint8))
    (tmp_path / "statistics.npz").write_bytes(b"PK rubbish")
    with pytest.raises(ShardError, match=r"statistics.npz: cannot be read as statistics"):
        Statistics.load(tmp_path / "statistics.npz")


def test_damaged_statistics_are_a_shard_error(tmp_path: Path) -> None:
    """One byte turned over, at places all over the file, or its end lost: an error of ours, or the file still loads."""
    path = tmp_path / "statistics.npz"
    sums_of(pictures(1)).finish().save(path)
    whole = path.read_bytes()
    names = [at for at in range(len(whole)) if whole[at : at + 2] == b"PK"]
    assert len(names) >= 13  # two for each of six arrays, and the end
    places = [at + step for at in names for step in range(0, 60, 3) if at + step < len(whole)]
    damaged = [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in [*places, len(whole) // 2]]
    damaged += [whole[: len(whole) // 2], whole[:-40], b"", b"\x93NUMPY rubbish"]
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            Statistics.load(path)
        except ShardError as error:
            assert "cannot be read as statistics" in str(error)
            refused += 1
    assert len(damaged) // 2 < refused <= len(damaged)
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(ShardError, match="cannot be read as statistics"):
        Statistics.load(path)
