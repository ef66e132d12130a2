"""The sheet of training batches: pixel plus noise, cropped and mirrored, against NumPy."""

from pathlib import Path

import numpy as np
import pytest

from dali_pipelines import DataConfig, Loader, Normalize, draw
from evaluation.views import pixels_of
from report.augmented import draw_augmented, with_mean
from sharding import ShardSet


@pytest.mark.parametrize("recipe", ["original", "paper"])
@pytest.mark.parametrize("noise_epochs", [None, 0])
def test_the_mean_is_added_back_and_the_noise_stays(shards: Path, recipe: str, noise_epochs: int | None) -> None:
    with ShardSet.open(shards / "train") as training:
        config = DataConfig(recipe=recipe, batch_size=14, seed=5, noise_epochs=noise_epochs)
        with Loader(training, config) as loader:
            batch = next(iter(loader.epoch(0)))
            ids, positions = batch.ids.numpy().copy(), batch.positions.numpy().copy()
            seen = with_mean(batch, Normalize(training.statistics, recipe, "cpu"))
        statistics = training.statistics if noise_epochs is None else None
        choice = draw(recipe, 5, 0, ids, positions, statistics)
        pixels = pixels_of(training, ids)
    expected = []
    for place, picture in enumerate(pixels):
        top, left = choice.crop_y[place], choice.crop_x[place]
        crop = picture[top : top + 224, left : left + 224]
        crop = crop[:, ::-1] if choice.mirror[place] else crop
        expected.append(np.clip(crop + choice.rgb_offset[place].astype(np.float64), 0, 255))
    assert seen.shape == (14, 224, 224, 3) and seen.dtype == np.uint8
    # JPEG decoders may differ by a few gray levels in a few pixels; the noise is far larger than the mean difference
    assert np.abs(seen - np.stack(expected)).mean() < 0.6
    if noise_epochs is None:
        assert np.abs(choice.rgb_offset).max() > 3
    assert choice.mirror.any() or recipe == "original"


def test_sheets_are_drawn_in_the_batchs_order() -> None:
    sheets = list(np.random.default_rng(0).integers(0, 256, (2, 10, 224, 224, 3), np.uint8))
    figure = draw_augmented(sheets, ["first batch of epoch 1", "first batch of epoch 2"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["first batch of epoch 1", "first batch of epoch 2"]
    for axes, sheet in zip(figure.axes, sheets):
        drawn = np.asarray(axes.images[0].get_array())
        assert drawn.shape == (2 * 230 - 6, 8 * 230 - 6, 3)
        np.testing.assert_array_equal(drawn[:224, 230:454], sheet[1])
        np.testing.assert_array_equal(drawn[230:, :224], sheet[8])
