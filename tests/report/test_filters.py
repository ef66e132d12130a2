"""conv1's weights → sheets of pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from evaluation.trained_run import TrainedRun
from report.page import Card, Gallery
from report.pictures import filter_pictures, filters_section
from tests.report.test_drawing import opened


def test_filters_are_scaled_about_mid_gray() -> None:
    weights = np.zeros((3, 3, 2, 2))
    weights[0, 0, 0, 1], weights[0, 2, 1, 0] = 0.5, -0.25
    weights[1, 1] = -3.0
    pictures = filter_pictures(weights)
    assert pictures.shape == (3, 2, 2, 3) and pictures.dtype == np.uint8
    assert pictures[0, 0, 1].tolist() == [255, 128, 128]  # red: the largest weight; others 0
    assert pictures[0, 1, 0].tolist() == [128, 128, 64]  # half the range below gray: 127.5 - 63.75
    assert pictures[1, 0, 0].tolist() == [128, 0, 128]
    assert (pictures[2] == 128).all()  # a filter of zeros


def sheets(run: TrainedRun) -> list[Card]:
    (block,) = filters_section(run).blocks
    assert isinstance(block, Gallery)
    return block.cards


def test_tower_a_stands_above_tower_b_and_one_column_has_one_sheet(run: Path) -> None:
    trained = TrainedRun.open(run)
    pictures = filter_pictures(trained.state["model"]["conv1.weight"].numpy())
    above, below = sheets(trained)
    assert (above.title, below.title) == ("tower A", "tower B")
    for card, kernels in ((above, pictures[:3]), (below, pictures[3:])):
        np.testing.assert_array_equal([np.asarray(opened(uri)) for uri in card.pictures], kernels)
    one_column = trained.state["model_config"] | {"ablate": ("columns",)}
    (only,) = sheets(replace(trained, state=trained.state | {"model_config": one_column}))
    assert only.alternative.startswith("6 filters of conv1, 11×11 pixels")
