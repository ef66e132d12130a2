"""The sheet of training batches: pixel plus noise, cropped and mirrored, against NumPy."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dali_pipelines import DataConfig, Loader, Normalize, draw
from evaluation.trained_run import TrainedRun
from evaluation.views import pixels_of
from report.drawing import picture
from report.page import Gallery
from report.pictures import augmented_section, with_mean
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
    for place, image in enumerate(pixels):
        top, left = choice.crop_y[place], choice.crop_x[place]
        crop = image[top : top + 224, left : left + 224]
        crop = crop[:, ::-1] if choice.mirror[place] else crop
        expected.append(np.clip(crop + choice.rgb_offset[place].astype(np.float64), 0, 255))
    assert seen.shape == (14, 224, 224, 3) and seen.dtype == np.uint8
    # JPEG decoders may differ by a few gray levels in a few pixels; the noise is far larger than the mean difference
    assert np.abs(seen - np.stack(expected)).mean() < 0.6
    if noise_epochs is None:
        assert np.abs(choice.rgb_offset).max() > 3
    assert choice.mirror.any() or recipe == "original"


def test_the_section_shows_the_first_batches_in_their_order(shards: Path, run: Path) -> None:
    trained = TrainedRun.open(run)
    with ShardSet.open(shards / "train") as training:
        section = augmented_section(trained, training)
        with Loader(training, DataConfig(recipe=trained.recipe, batch_size=4, seed=0)) as loader:
            seen = [
                with_mean(next(iter(loader.epoch(epoch))), Normalize(trained.statistics, trained.recipe, "cpu"))
                for epoch in (0, 1)
            ]
    assert section.sentences == ["Recipe original: 224×224 crops, mirrors and color noise, the mean added back, values clipped to 0..255."]  # fmt: skip # noqa: E501
    for gallery, pictures, epoch in zip(section.blocks, seen, (1, 2), strict=True):
        assert isinstance(gallery, Gallery)
        assert [card.pictures for card in gallery.cards] == [[picture(image, 128)] for image in pictures]
        noise = re.fullmatch(
            rf"First batch of epoch {epoch}, color noise of up to (\d+) gray levels\.", gallery.caption
        )
        assert noise and 2 < int(noise[1]) < 80


def test_a_foreign_data_config_is_a_sentence(shards: Path, run: Path) -> None:
    trained = TrainedRun.open(run)
    foreign = replace(trained, state=trained.state | {"data_config": {"recipe": "original", "batches": 3}})
    with ShardSet.open(shards / "train") as training:
        (sentence,) = augmented_section(foreign, training).sentences
    assert sentence.startswith("No batch: data_config of the checkpoint: ") and "batches" in sentence
