"""What the sections on pictures hand to the drawing: the right images, classes, probabilities and neighbors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.trained_run import TrainedRun
from evaluation.views import Classifier, pixels_of
from report import shown
from report.drawing import blank
from report.shown import guesses_section, neighbors_section, spread


@pytest.fixture(scope="module")
def opened(run: Path) -> tuple[TrainedRun, Classifier]:
    trained, device = TrainedRun.open(run), torch.device("cpu")
    return trained, Classifier(trained.network(device), trained.statistics, trained.recipe, device)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the drawing functions get, in place of drawing."""
    arguments: list[Any] = []
    for name in ("draw_guesses", "draw_neighbors"):
        monkeypatch.setattr(shown, name, lambda *values: arguments.extend(values) or blank(1, 1))
    return arguments


@pytest.mark.parametrize(
    ("samples", "count", "offset", "ids"),
    [
        (100, 4, 0.5, [12, 37, 62, 87]),  # the middle of each quarter
        (100, 4, 0.25, [6, 31, 56, 81]),
        (3, 8, 0.5, [0, 1, 2]),  # fewer samples than asked for: each once
        (1, 5, 0.25, [0]),
    ],
)
def test_ids_are_spread_evenly(samples: int, count: int, offset: float, ids: list[int]) -> None:
    assert spread(samples, count, offset).tolist() == ids


def test_guesses_are_the_best_of_the_ten_patch_probabilities(
    opened: tuple[TrainedRun, Classifier], given: list[Any]
) -> None:
    run, classifier = opened
    with run.open_split("val") as held_out:
        guesses_section(run, classifier, held_out)
        ids = np.array([0, 1, 2, 3, 5, 6, 7, 8])  # eight of nine
        pixels, labels = pixels_of(held_out, ids), held_out.labels(ids)
    images, true, best, probabilities, names = given
    np.testing.assert_array_equal(np.stack(images), pixels)
    np.testing.assert_array_equal(true, labels)
    table = classifier.probabilities(pixels)
    for row, guesses, shares in zip(table, best, probabilities):
        assert guesses.tolist() == sorted(range(7), key=lambda label: -row[label])[:5]
        np.testing.assert_array_equal(shares, row[guesses])
    assert names == [f"class-{label}" for label in range(7)]


@pytest.mark.parametrize("among", [14, 10])
def test_neighbors_are_the_nearest_in_fc7(
    opened: tuple[TrainedRun, Classifier], given: list[Any], among: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "CHUNK", 4)
    run, classifier = opened
    with run.open_split("val") as held_out, run.open_split("train") as training:
        neighbors_section(run, classifier, held_out, training, among)
        ids, everything = np.array([0, 2, 4, 5, 7]), np.arange(among)
        queries, pool = pixels_of(held_out, ids), pixels_of(training, everything)
        true, labels = held_out.labels(ids), training.labels(everything)
    images, names, neighbors, neighbor_names, same = given
    np.testing.assert_array_equal(np.stack(images), queries)
    assert names == [f"class-{label}" for label in true]
    ours, theirs = classifier.features(pool).astype(np.float64), classifier.features(queries).astype(np.float64)
    order = np.argsort(((theirs[:, None] - ours[None]) ** 2).sum(axis=2), axis=1)[:, :6]
    for row, found in enumerate(order):
        np.testing.assert_array_equal(np.stack(neighbors[row]), pool[found])
        assert neighbor_names[row] == [f"class-{label}" for label in labels[found]]
        assert same[row].tolist() == (labels[found] == true[row]).tolist()
