"""Errors with fractional ties, log loss, intervals, and sums over batches and ranks."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, top_k_accuracy_score

from model.scores import ScoreError, Scores, wilson_interval

ROOT = Path(__file__).resolve().parents[2]


def scored(probabilities: list[list[float]] | np.ndarray, labels: list[int] | np.ndarray) -> Scores:
    table = torch.tensor(np.asarray(probabilities, np.float64))
    scores = Scores(table.shape[1])
    scores.add(table, torch.tensor(np.asarray(labels, np.int64)))
    return scores


def expected_error(row: np.ndarray, label: int, best: int) -> float:
    """Independent: the mean over many random breakings of ties of whether the label is outside the best k."""
    random = np.random.default_rng(0)
    misses = []
    for _ in range(4000):
        order = np.lexsort((random.random(len(row)), -row))
        misses.append(label not in order[:best])
    return float(np.mean(misses))


@pytest.mark.parametrize(
    ("row", "label", "top1", "top5"),
    [
        ([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], 0, 0.0, 0.0),  # clear winner
        ([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], 3, 1.0, 1 / 5),  # one better, five equal, four places left
        ([1 / 8] * 8, 7, 7 / 8, 3 / 8),  # all equal: chance, whatever the label
        ([1 / 8] * 8, 0, 7 / 8, 3 / 8),
        ([0.4, 0.4, 0.2, 0, 0, 0], 1, 0.5, 0.0),  # two share the first place
        ([0.3, 0.25, 0.2, 0.15, 0.1, 0.0], 4, 1.0, 0.0),  # fifth of six
        ([0.3, 0.25, 0.2, 0.15, 0.1, 0.0], 5, 1.0, 1.0),  # sixth of six
        ([0.3, 0.2, 0.2, 0.2, 0.05, 0.05], 5, 1.0, 0.5),  # two share the fifth place
        ([0.6, 0.4], 1, 1.0, 0.0),  # fewer than five classes: top-5 is never wrong
        ([0.6, 0.3, 0.1], 2, 1.0, 0.0),
        ([1.0], 0, 0.0, 0.0),
    ],
)
def test_ties_earn_fractional_credit(row: list[float], label: int, top1: float, top5: float) -> None:
    figures = scored([row], [label]).figures()
    assert figures["top1_error"] == pytest.approx(top1, abs=1e-12)
    assert figures["top5_error"] == pytest.approx(top5, abs=1e-12)
    assert expected_error(np.array(row), label, 1) == pytest.approx(top1, abs=0.03)
    assert expected_error(np.array(row), label, 5) == pytest.approx(top5, abs=0.03)


def test_agrees_with_scikit_learn_where_nothing_is_tied() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(12), size=300)
    labels = random.integers(0, 12, size=300)
    figures = scored(probabilities, labels).figures()
    for best, name in ((1, "top1_error"), (5, "top5_error")):
        wrong = 300 - top_k_accuracy_score(labels, probabilities, k=best, labels=range(12), normalize=False)
        assert figures[name] * 300 == pytest.approx(wrong, abs=1e-9)  # type: ignore[literal-required]
    assert figures["log_loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(12)), abs=1e-12)
    losses = -np.log(probabilities[np.arange(300), labels])
    margin = 1.959963984540054 * losses.std(ddof=1) / 300**0.5
    assert figures["log_loss_interval"] == pytest.approx([losses.mean() - margin, losses.mean() + margin], abs=1e-9)


def test_logits_score_as_their_softmax_and_do_not_saturate() -> None:
    random = np.random.default_rng(2)
    logits = torch.tensor(random.normal(0, 3, size=(50, 7)))
    labels = torch.tensor(random.integers(0, 7, size=50))
    by_logits, by_probabilities = Scores(7), Scores(7)
    by_logits.add_logits(logits, labels)
    by_probabilities.add(logits.softmax(dim=1), labels)
    for name, value in by_probabilities.figures().items():
        assert by_logits.figures()[name] == pytest.approx(value, abs=1e-10)  # type: ignore[literal-required]
    large = Scores(3)
    large.add_logits(torch.tensor([[900.0, 0.0, 901.0]]), torch.tensor([1]))
    assert large.figures()["log_loss"] == pytest.approx(901 + np.log1p(np.exp(-1.0)), abs=1e-9)
    assert large.figures()["top1_error"] == 1.0


def test_a_probability_of_zero_costs_much_and_stays_finite() -> None:
    figures = scored([[1.0, 0.0]], [1]).figures()
    assert figures["log_loss"] == pytest.approx(-np.log(np.finfo(np.float64).tiny))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_any_division_into_batches_and_parts_gives_the_same(images: int, classes: int, parts: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    table = torch.tensor(random.integers(0, 4, size=(images, classes)) / 8.0)  # few values: many ties
    labels = torch.tensor(random.integers(0, classes, size=images))
    whole, merged = Scores(classes), Scores(classes)
    whole.add(table, labels)
    for index in np.array_split(np.arange(images), parts):  # some parts are empty
        part = Scores(classes)
        part.add(table[index], labels[index])
        merged.merge(part)
    assert merged.images == whole.images == images
    for one, other in zip(merged.errors_by_class(), whole.errors_by_class(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert merged.figures()["log_loss"] == pytest.approx(whole.figures()["log_loss"], rel=1e-12)


def test_errors_by_class_belong_to_the_true_class() -> None:
    scores = scored([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.4, 0.4, 0.2]], [0, 1, 1, 0])
    images, top1, top5 = scores.errors_by_class()
    assert images.tolist() == [2, 2, 0]
    assert top1.tolist() == [0.5, 1.0, 0.0]
    assert top5.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("errors", "images", "low", "high"),
    [  # published values for some; for all, the roots of (rate - r)^2 = z^2 r (1 - r) / images
        (0, 10, 0.0, 0.2775327998628892),
        (10, 10, 0.7224672001371107, 1.0),
        (5, 20, 0.11186167, 0.46870080),
        (20, 360, None, None),
        (0.5, 3, None, None),
        (374.73, 1000, None, None),
    ],
)
def test_wilson_interval_solves_its_equation(errors: float, images: int, low: float | None, high: float | None) -> None:
    z, rate = 1.959963984540054, errors / images
    roots = np.sort(np.roots([1 + z * z / images, -2 * rate - z * z / images, rate * rate]))
    assert wilson_interval(errors, images) == pytest.approx(tuple(roots.real), abs=1e-9)
    if low is not None:
        assert wilson_interval(errors, images) == pytest.approx((low, high), abs=1e-7)


@pytest.mark.parametrize(
    ("table", "labels", "what"),
    [
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), r"expected scores \[n, 3\]"),
        (torch.zeros(2, 3), torch.zeros(1, dtype=torch.int64), r"got \[2, 3\] and \[1\]"),
        (torch.zeros(1, 3), torch.tensor([3]), r"labels must lie in 0\.\.2, got 3\.\.3"),
        (torch.zeros(1, 3), torch.tensor([-1]), r"labels must lie in 0\.\.2"),
        (torch.tensor([[0.0, 0, 0], [0, float("nan"), 0]]), torch.tensor([0, 0]), "image 1 of a batch is not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(table: torch.Tensor, labels: torch.Tensor, what: str) -> None:
    scores = Scores(3)
    for add in (scores.add, scores.add_logits):
        with pytest.raises(ScoreError, match=what):
            add(table, labels)
    assert scores.images == 0


def test_no_images_no_classes_no_interval() -> None:
    empty = Scores(3)
    empty.add(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ScoreError, match="no image"):
        empty.figures()
    with pytest.raises(ScoreError, match="at least 1, got 0"):
        Scores(0)
    with pytest.raises(ScoreError, match="got 3 of 2"):
        wilson_interval(3, 2)
    with pytest.raises(ScoreError, match="4 classes into 3"):
        empty.merge(Scores(4))


RANK = """
import torch, torch.distributed as dist
from model.scores import Scores
dist.init_process_group("gloo")
rank, scores = dist.get_rank(), Scores(4)
count = (3, 0)[rank]  # the second rank has nothing
scores.add(torch.tensor([[.4, .3, .2, .1]] * count).reshape(count, 4), torch.tensor([0, 1, 1][:count]))
scores.all_reduce()
figures = scores.figures()
assert figures["images"] == 3 and abs(figures["top1_error"] - 2 / 3) < 1e-12, figures
open(f"{__file__}.{rank}", "w").write(f"rank {rank} has {scores.images}")  # their outputs could mix in a pipe
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_every_rank_gets_the_sum(python: Path, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [str(python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "PYTHON_EXEC": str(python)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = [(tmp_path / f"rank.py.{rank}").read_text() for rank in (0, 1)]
    assert said == ["rank 0 has 3", "rank 1 has 3"]
