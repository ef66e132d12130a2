"""Errors by class, confusions and mistakes: counted by hand from a few answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from evaluation.ten_patch import Predictions
from evaluation.trained_run import TrainedRun
from report import classes
from report.classes import (
    classes_section,
    confused_pairs,
    confusions_section,
    ends,
    mistakes_section,
    picture_source,
)
from report.page import Bar, Gallery, Section, Table

NAMES = ["ant", "bee", "cat, feline", "dog", "eel", "fox", "gnu"]


@pytest.fixture
def animals(run: Path) -> TrainedRun:
    trained = TrainedRun.open(run)
    rows = [[label, f"n{label}", name] for label, name in enumerate(NAMES)]
    return replace(trained, state=trained.state | {"dataset": trained.state["dataset"] | {"classes": rows}})


def answers(*rows: tuple[int, list[int], float]) -> Predictions:
    """A row for each (true class, best classes, probability of the best)."""
    labels, best, probability = zip(*rows)
    shares = np.array(probability)[:, None] / np.arange(1, 6)
    return Predictions(
        ids=np.arange(len(rows)),
        labels=np.array(labels),
        best=np.array(best, np.int32),
        probability=shares.astype(np.float32),
    )


SIX = answers(
    (0, [0, 1, 2, 3, 4], 0.9),
    (0, [1, 0, 2, 3, 4], 0.6),
    (0, [1, 2, 3, 4, 5], 0.8),
    (2, [3, 2, 0, 1, 4], 0.7),
    (3, [3, 2, 0, 1, 4], 0.5),
    (1, [1, 2, 0, 3, 4], 0.4),
)


def table(section: Section, form: str) -> Table:
    (block,) = [block for block in section.blocks if isinstance(block, Table) and block.form == form]
    return block


def texts(table: Table) -> list[list[str]]:
    return [[cell if isinstance(cell, str) else cell.text for cell in row] for row in table.rows]


def test_every_class_has_a_row_that_can_be_sorted(animals: TrainedRun) -> None:
    by_class = table(classes_section(animals, SIX), "sortable")
    header = ("class", "images", "top-1 error", "top-5 error", "most often taken for", "label", "wnid")
    assert by_class.header == header
    assert texts(by_class)[:5] == [
        ["ant", "3", "66.7%", "33.3%", "bee (2)", "0", "n0"],
        ["bee", "1", "0.0%", "0.0%", "", "1", "n1"],
        ["cat", "1", "100.0%", "0.0%", "dog (1)", "2", "n2"],
        ["dog", "1", "0.0%", "0.0%", "", "3", "n3"],
        ["eel", "0", "no images", "no images", "", "4", "n4"],
    ]
    bar = by_class.rows[0][2]
    assert isinstance(bar, Bar) and bar.share == pytest.approx(2 / 3)


def test_five_classes_have_no_top_5_column(animals: TrainedRun) -> None:
    dataset = animals.state["dataset"] | {"classes": animals.classes[:4]}
    few = replace(animals, state=animals.state | {"dataset": dataset})
    best = np.array([[0, 1, 2, 3], [3, 1, 0, 2]], np.int32)
    rows = Predictions(
        ids=np.arange(2), labels=np.array([0, 1]), best=best, probability=np.full((2, 4), 0.25, np.float32)
    )
    assert "top-5 error" not in table(classes_section(few, rows), "sortable").header


def test_the_confusion_matrix_has_true_classes_in_rows(animals: TrainedRun) -> None:
    matrix = table(classes_section(animals, SIX), "matrix")
    assert matrix.header == ("", "ant", "bee", "cat", "dog", "eel", "fox", "gnu")
    expected = confusion_matrix(SIX.labels, SIX.best[:, 0], labels=np.arange(7))
    for row, name, counts in zip(texts(matrix), matrix.header[1:], expected, strict=True):
        assert row == [name, *(str(count) if count else "" for count in counts)]
    bar = matrix.rows[0][2]
    assert isinstance(bar, Bar) and (bar.text, bar.share) == ("2", pytest.approx(2 / 3))
    assert matrix.caption.startswith("Confusion matrix: 3 of 6 images on the diagonal.")


@pytest.mark.parametrize(
    ("errors", "shown", "best", "worst"),
    [
        ([0.3, 0.1, 0.2, 0.4], 1, [1], [3]),
        ([0.3, 0.1, 0.2, 0.4], 2, [1, 2], [3, 0]),
        ([0.3, 0.1, 0.2, 0.4, 0.0], 9, [4, 1, 2], [3, 0]),  # all of them, none twice
        ([0.3, np.nan, 0.2], 9, [2], [0]),  # a class without images
        ([0.5], 9, [0], []),
        ([0.2, 0.2, 0.2], 1, [0], [2]),
        ([0.0, 0.0, 0.0, 0.1], 2, [0, 1], [3]),  # a class without errors is not among the worst
        ([0.0, 0.0, 0.0], 1, [0], []),
    ],
)
def test_ends(
    errors: list[float], shown: int, best: list[int], worst: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "SHOWN", shown)
    assert [part.tolist() for part in ends(np.array(errors))] == [best, worst]


def test_confusions_are_counted_and_the_most_frequent_is_first() -> None:
    assert confused_pairs(SIX, 7).tolist() == [[0, 1, 2], [2, 3, 1]]
    random = np.random.default_rng(1)
    many = Predictions(
        ids=np.arange(500),
        labels=random.integers(0, 9, 500),
        best=random.integers(0, 9, (500, 1)).astype(np.int32),
        probability=np.ones((500, 1), np.float32),
    )
    matrix = confusion_matrix(many.labels, many.best[:, 0], labels=np.arange(9))
    np.fill_diagonal(matrix, 0)
    pairs = confused_pairs(many, 9)
    assert pairs[:, 2].sum() == matrix.sum() and (np.diff(pairs[:, 2]) <= 0).all()
    assert all(matrix[label, guess] == count for label, guess, count in pairs)


def cards(section: Section) -> list[tuple[str, list[str], list[str]]]:
    (block,) = section.blocks
    assert isinstance(block, Gallery)
    return [
        (card.title, card.pictures, [line if isinstance(line, str) else line.text for line in card.lines])
        for card in block.cards
    ]


def test_a_confusion_shows_a_confused_image_and_one_of_the_other_class(animals: TrainedRun) -> None:
    section = confusions_section(animals, SIX, lambda sample: [f"picture {sample}"], [])
    assert cards(section) == [
        ("ant → bee", ["picture 2", "picture 5"], ["2 of 3 images"]),  # of the two, the surer one
        ("cat → dog", ["picture 3", "picture 4"], ["1 of 1 images"]),
    ]
    assert section.sentences[0].startswith("3 of 6 images are taken for another class, in 2 different ways")


def test_the_most_confident_mistake_is_first(animals: TrainedRun) -> None:
    section = mistakes_section(animals, SIX, lambda sample: [f"picture {sample}"], [])
    assert cards(section) == [
        ("ant", ["picture 2"], ["bee 80.0 %", "cat 40.0 %", "dog 26.7 %"]),
        ("cat", ["picture 3"], ["dog 70.0 %", "✓ cat 35.0 %", "ant 23.3 %"]),
        ("ant", ["picture 1"], ["bee 60.0 %", "✓ ant 30.0 %", "cat 20.0 %"]),
    ]


def test_a_network_without_errors_says_so(animals: TrainedRun) -> None:
    right = answers((1, [1, 2, 0, 3, 4], 0.9))
    for section in (confusions_section, mistakes_section):
        made = section(animals, right, lambda _sample: [], [])
        assert made.sentences == ["No image is taken for another class."] and not made.blocks


def test_pictures_are_only_those_of_the_split_that_was_evaluated(animals: TrainedRun, run: Path) -> None:
    with TrainedRun.open(run).open_split("val") as held_out:
        pictures, note = picture_source(held_out, held_out.fingerprint)
        assert pictures(3)[0].startswith("data:image/jpeg;base64,") and not note
        for split, fingerprint in ((held_out, "of another split"), (None, held_out.fingerprint)):
            pictures, note = picture_source(split, fingerprint)
            assert pictures(3) == [] and note[0].startswith("Without pictures: ")
            assert note[0] in confusions_section(animals, SIX, pictures, note).sentences
            assert note[0] in mistakes_section(animals, SIX, pictures, note).sentences
