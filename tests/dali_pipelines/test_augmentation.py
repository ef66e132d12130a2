"""Crops, mirrors and color offsets of both recipes: what the sources say, and that chance looks like chance."""

import math

import numpy as np
import pytest

from dali_pipelines.augmentation import Augmentation, RecipeName, draw, fixed_views, mean_crops
from sharding import Statistics

IDS = np.arange(20_000)


def variants(choice: Augmentation) -> np.ndarray:
    return (choice.crop_y.astype(int) * 64 + choice.crop_x) * 2 + choice.mirror


@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_the_same_question_has_the_same_answer_in_any_company(recipe: RecipeName, statistics: Statistics) -> None:
    positions = IDS[::-1].copy()
    whole = draw(recipe, 4, 9, IDS, positions, statistics)
    chosen = np.array([19_999, 3, 3, 70, 12_345])
    part = draw(recipe, 4, 9, IDS[chosen], positions[chosen], statistics)
    for field in ("crop_y", "crop_x", "mirror", "rgb_offset"):
        np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[chosen], err_msg=field)
    for other in (draw(recipe, 5, 9, IDS, positions), draw(recipe, 4, 10, IDS, positions)):
        assert (variants(other) == variants(whole)).mean() < 0.01


@pytest.mark.parametrize(("recipe", "offsets"), [("original", 33), ("paper", 32)])
def test_all_offsets_come_equally_often_and_half_are_mirrored(recipe: RecipeName, offsets: int) -> None:
    positions = IDS * 32  # one chunk each
    choice = draw(recipe, 0, 0, IDS, positions)
    assert choice.crop_y.dtype == choice.crop_x.dtype == np.int32 and choice.mirror.dtype == np.bool_
    for crops in (choice.crop_y, choice.crop_x):
        counts = np.bincount(crops)
        assert len(counts) == offsets
        expected = len(IDS) / offsets
        chi_squared = float(((counts - expected) ** 2 / expected).sum())
        assert abs(chi_squared - (offsets - 1)) < 5 * math.sqrt(2 * (offsets - 1))
    assert abs(choice.mirror.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(IDS))
    table = np.corrcoef([choice.crop_y, choice.crop_x, choice.mirror])
    assert np.abs(table - np.eye(3)).max() < 5 / math.sqrt(len(IDS))


def test_original_32_consecutive_positions_share_a_crop_whatever_their_ids() -> None:
    positions = np.arange(640)
    choice = draw("original", 0, 3, np.random.default_rng(0).permutation(640), positions)
    chunks = variants(choice).reshape(20, 32)
    assert (chunks == chunks[:, :1]).all()
    assert len(set(chunks[:, 0].tolist())) == 20
    np.testing.assert_array_equal(variants(draw("original", 0, 3, positions, positions)), variants(choice))


def test_paper_shows_an_image_2048_variants_in_2048_epochs_in_an_order_of_its_own() -> None:
    ids = np.array([0, 1, 77, 1_281_166])
    shown = np.array([variants(draw("paper", 8, epoch, ids, ids)) for epoch in range(2048)])
    assert [len(set(column.tolist())) for column in shown.T] == [2048] * 4
    assert (shown[:, :1] == shown[:, 1:]).mean() < 0.01
    again = np.array([variants(draw("paper", 8, epoch, ids, ids)) for epoch in range(2048, 2148)])
    assert (again == shown[:100]).mean() < 0.05  # the next 2,048 epochs go another way


@pytest.mark.parametrize("lag", [1, 2, 16, 64])
def test_paper_crops_and_mirrors_of_two_epochs_are_uncorrelated(lag: int) -> None:
    for epoch in (0, 1, 31, 90):
        first, second = draw("paper", 0, epoch, IDS, IDS), draw("paper", 0, epoch + lag, IDS, IDS)
        for field in ("crop_y", "crop_x", "mirror"):
            correlation = np.corrcoef(getattr(first, field), getattr(second, field))[0, 1]
            assert abs(correlation) < 5 / math.sqrt(len(IDS)), (field, epoch)
    walk = [draw("paper", 0, epoch, IDS[:1], IDS[:1]) for epoch in range(2048)]
    for field in ("crop_y", "crop_x", "mirror"):
        values = np.array([getattr(step, field)[0] for step in walk])
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 5 / math.sqrt(2048), field


@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_the_covariance_of_the_color_offsets_is_the_recipes(recipe: RecipeName, statistics: Statistics) -> None:
    ids = np.arange(200_000)
    offsets = draw(recipe, 1, 2, ids, ids, statistics).rgb_offset.astype(np.float64)
    if recipe == "original":
        expected = 0.01 * statistics.rgb_covariance
    else:  # the covariance of data on 0..1 is rgb_covariance / 255², its eigenvalues squared are its square's
        unit = statistics.rgb_covariance / 255**2
        expected = 0.01 * unit @ unit * 255**2
    error = 5 * math.sqrt(2 / len(ids)) * np.abs(expected).max()
    np.testing.assert_allclose(np.cov(offsets.T), expected, atol=error)
    assert np.abs(offsets.mean(axis=0)).max() < 5 * math.sqrt(np.abs(expected).max() / len(ids))


def test_the_offsets_have_the_size_that_the_sources_give(statistics: Statistics) -> None:
    sizes = {
        recipe: np.linalg.norm(draw(recipe, 0, 0, IDS, IDS, statistics).rgb_offset, axis=1)
        for recipe in ("original", "paper")
    }
    assert 11 < np.sqrt((sizes["original"] ** 2).mean()) < 14  # 0.1·119 = 11.9 gray levels along the first, and more
    assert 5 < np.sqrt((sizes["paper"] ** 2).mean()) < 6  # 5.5 gray levels along the first


def test_without_statistics_there_is_no_noise_and_no_division(statistics: Statistics) -> None:
    for recipe, divisor in (("original", 1.1), ("paper", 1.0)):
        with_noise, without = draw(recipe, 0, 0, IDS, IDS, statistics), draw(recipe, 0, 0, IDS, IDS)
        assert (with_noise.divisor, without.divisor) == (divisor, 1.0)
        assert with_noise.rgb_offset.any() and not without.rgb_offset.any()
        assert with_noise.rgb_offset.dtype == without.rgb_offset.dtype == np.float32
        np.testing.assert_array_equal(variants(with_noise), variants(without))


def test_the_views_are_the_originals_image_by_image() -> None:
    five = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    views = fixed_views(2, 10)
    places = list(zip(views.crop_y.tolist(), views.crop_x.tolist(), views.mirror.tolist()))
    assert places == ([(*place, False) for place in five] + [(*place, True) for place in five]) * 2
    assert views.rgb_offset.shape == (20, 3) and not views.rgb_offset.any() and views.divisor == 1
    center = fixed_views(3, 1)
    assert center.crop_y.tolist() == center.crop_x.tolist() == [16] * 3 and not center.mirror.any()


def test_the_mean_image_follows_the_crop_in_the_paper_only() -> None:
    choice = draw("paper", 0, 0, IDS[:50], IDS[:50])
    for followed, own in zip(mean_crops("paper", choice), (choice.crop_y, choice.crop_x, choice.mirror)):
        np.testing.assert_array_equal(followed, own)
    y, x, mirror = mean_crops("original", choice)
    assert y.tolist() == x.tolist() == [16] * 50 and not mirror.any()


@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_centered_keeps_mirrors_and_colors(recipe: RecipeName, statistics: Statistics) -> None:
    choice = draw(recipe, 4, 9, IDS, IDS, statistics)
    centered = choice.centered()
    assert set(centered.crop_y.tolist()) == set(centered.crop_x.tolist()) == {16}
    assert centered.crop_y.dtype == np.int32
    for field in ("mirror", "rgb_offset", "divisor"):
        np.testing.assert_array_equal(getattr(centered, field), getattr(choice, field))
