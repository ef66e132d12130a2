"""The sections on pictures of the data set: the right images, classes, probabilities and neighbors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.trained_run import TrainedRun
from evaluation.views import Classifier, pixels_of
from report import pictures
from report.drawing import picture
from report.page import Bar, Gallery, Section
from report.pictures import guess_card, guesses_section, nearest, neighbors_section, spread


@pytest.fixture(scope="module")
def opened(run: Path) -> tuple[TrainedRun, Classifier]:
    trained, device = TrainedRun.open(run), torch.device("cpu")
    return trained, trained.classifier(device)


def galleries(section: Section) -> list[Gallery]:
    blocks = [block for block in section.blocks if isinstance(block, Gallery)]
    assert len(blocks) == len(section.blocks)
    return blocks


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


def test_guesses_are_the_best_of_the_ten_patch_probabilities(opened: tuple[TrainedRun, Classifier]) -> None:
    run, classifier = opened
    with run.open_split("val") as held_out:
        (gallery,) = galleries(guesses_section(run, classifier, held_out))
        ids = np.array([0, 1, 2, 3, 5, 6, 7, 8])  # eight of nine
        pixels, labels = pixels_of(held_out, ids), held_out.labels(ids)
    table = classifier.probabilities(pixels)
    names = [f"class-{label}" for label in range(7)]
    for card, image, label, row in zip(gallery.cards, pixels, labels, table, strict=True):
        assert card.title == f"class-{label}"
        best = sorted(range(7), key=lambda guess: -row[guess])[:5]
        what = f"A held-out image of class class-{label}."
        assert card == guess_card([picture(image, 256)], what, names, label, [(name, row[name]) for name in best])


def test_a_guess_has_its_probability_as_bar_and_a_tick_if_it_is_right() -> None:
    card = guess_card(["uri"], "An image.", ["hen", "tench, Tinca tinca"], 1, [(1, 0.25), (0, 0.5)])
    assert (card.pictures, card.alternative, card.title) == (["uri"], "An image.", "tench")
    right, wrong = card.lines
    assert isinstance(right, Bar) and isinstance(wrong, Bar)
    assert (right.text, right.share, right.marked) == ("✓ tench 25.0 %", 0.25, True)
    assert (wrong.text, wrong.share, wrong.marked) == ("hen 50.0 %", 0.5, False)


def test_nearest_agrees_with_all_distances() -> None:
    random = np.random.default_rng(3)
    training, queries = random.normal(size=(50, 8)), random.normal(size=(4, 8))
    table = np.sqrt(((queries[:, None] - training[None]) ** 2).sum(axis=2))
    np.testing.assert_array_equal(nearest(training, queries, 6), np.argsort(table, axis=1)[:, :6])
    assert nearest(training[:3], queries, 6).shape == (4, 3)


@pytest.mark.parametrize("among", [14, 10])
def test_neighbors_are_the_nearest_in_fc7(
    opened: tuple[TrainedRun, Classifier], among: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "CHUNK", 4)
    run, classifier = opened
    with run.open_split("val") as held_out, run.open_split("train") as training:
        section = neighbors_section(run, classifier, held_out, training, among)
        ids, everything = np.array([0, 2, 4, 5, 7]), np.arange(among)
        queries, pool = pixels_of(held_out, ids), pixels_of(training, everything)
        true, labels = held_out.labels(ids), training.labels(everything)
    ours, theirs = classifier.features(pool).astype(np.float64), classifier.features(queries).astype(np.float64)
    order = np.argsort(((theirs[:, None] - ours[None]) ** 2).sum(axis=2), axis=1)[:, :6]
    for gallery, image, label, row in zip(galleries(section), queries, true, order, strict=True):
        first, *others = gallery.cards
        assert first.pictures == [picture(image, 128)] and first.title == f"held out: class-{label}"
        assert [card.pictures for card in others] == [[picture(pool[place], 128)] for place in row]
        assert [card.title for card in others] == [f"class-{labels[place]}" for place in row]
        assert [card.marked for card in others] == (labels[row] != label).tolist()
    assert f"{(labels[order] == true[:, None]).sum()} of 30 are of its class" in section.sentences[0]
    assert f"searched among {among} of 14 training images" in section.sentences[1]
