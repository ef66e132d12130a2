"""Which published errors belong to a class table."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from evaluation.references import (
    PART_WORTHS,
    REFERENCES,
    challenge_of,
    published_curve,
    reference_note,
    references_for,
    worth_of,
)
from training.config import ABLATIONS


def test_ilsvrc_2010_is_known_by_its_wnids(imagenet2010: Path) -> None:
    synsets = loadmat(imagenet2010 / "meta.mat", squeeze_me=True)["synsets"]
    wnids = [str(synset["WNID"]) for synset in synsets if synset["ILSVRC2010_ID"] <= 1000]
    assert len(wnids) == 1000
    assert challenge_of((label, wnid, "any") for label, wnid in enumerate(wnids)) == "ILSVRC-2010"
    assert challenge_of((label, wnid, None) for label, wnid in enumerate(sorted(wnids))) == "ILSVRC-2010"
    assert challenge_of((label, None, wnid) for label, wnid in enumerate(wnids)) == "ILSVRC-2010"
    assert challenge_of((label, wnid, "") for label, wnid in enumerate(wnids[:-1])) is None
    assert challenge_of((label, wnid, "") for label, wnid in enumerate([*wnids[:-1], "n00000000"])) is None


def test_other_classes_have_no_challenge() -> None:
    assert challenge_of([(label, None, str(label)) for label in range(10)]) is None
    assert challenge_of([]) is None


@pytest.mark.parametrize(
    ("challenge", "split", "first", "count"),
    [
        ("ILSVRC-2010", "test", ("original #145-2010 (the paper's Table 1)", 0.37473, 0.16999), 4),
        ("ILSVRC-2010", "val", ("seed (replicatingAlexNet, mean of logits)", 0.4025, 0.1968), 4),
        ("ILSVRC-2012", "val", ("original #145", 0.40664, 0.18210), 4),
    ],
)
def test_references_of_the_same_split_stand_first(challenge: str, split: str, first: tuple, count: int) -> None:
    found = references_for(challenge, split)
    assert len(found) == count
    assert (found[0].run, found[0].top1_error, found[0].top5_error) == first
    assert found[0].split == split and {reference.challenge for reference in found} == {challenge}


def test_no_references_for_other_data() -> None:
    assert references_for(None, "val") == []
    assert len(REFERENCES) == 10
    for reference in REFERENCES:
        assert 0.15 < reference.top5_error < reference.top1_error < 0.43


@pytest.mark.parametrize(
    ("challenge", "split", "images", "note"),
    [
        (None, "val", 360, "no published reference for this data set"),
        ("ILSVRC-2010", "val", 50_000, ""),
        ("ILSVRC-2010", "test", 150_000, ""),
        ("ILSVRC-2012", "val", 50_000, ""),
        ("ILSVRC-2012", "test", 100_000, "the references are for other splits of ILSVRC-2012"),
        ("ILSVRC-2010", "val", 60, "not comparable: these are 60 of the 50000 images of ILSVRC-2010 val"),
    ],
)
def test_what_to_know_before_comparing(challenge: str | None, split: str, images: int, note: str) -> None:
    assert reference_note(challenge, split, images) == note


def test_the_published_curve_is_the_seeds_log(imagenet2010: Path) -> None:
    curve = published_curve()
    with (imagenet2010 / "training_log_two_gpus.csv").open() as lines:
        log = list(csv.DictReader(lines))
    assert len(log) == 90
    pairs = {
        "epoch": [float(row["epoch"]) for row in log],
        "training_loss": [float(row["training_loss"]) for row in log],
        "training_top1_error": [1 - float(row["training_accuracy"]) for row in log],
        "validation_loss": [float(row["validation_loss"]) for row in log],
        "validation_top1_error": [1 - float(row["validation_accuracy"]) for row in log],
        "rate": [float(row["learning_rate"]) for row in log],
    }
    for name, values in pairs.items():
        np.testing.assert_allclose(curve[name], values, atol=1e-5, err_msg=name)
    assert np.isnan(curve["images_per_second"][0])
    assert np.nanmean(curve["images_per_second"]) == pytest.approx(960, abs=5)  # "about 960 images/s"


def test_every_ablation_has_what_the_sources_say() -> None:
    assert {worth.part for worth in PART_WORTHS} == set(ABLATIONS)
    assert all(worth_of(part)[0].source.startswith("Krizhevsky 2012 §") for part in ABLATIONS)
    assert worth_of("fc6") == []


@pytest.mark.parametrize(
    ("part", "without", "whole"),
    [
        ("norms", "original #148 (no normalization layers)", "original #145"),
        ("overlap", "original #147 (pooling without overlap)", "original #145"),
        ("columns", "original #145-half (one column)", "original #145-2010 (the paper's Table 1)"),
    ],
)
def test_the_originals_notes_round_to_the_papers_points(part: str, without: str, whole: str) -> None:
    errors = {reference.run: reference for reference in REFERENCES}
    paper, noted = worth_of(part)
    for name in ("top1", "top5"):
        difference = getattr(errors[without], f"{name}_error") - getattr(errors[whole], f"{name}_error")
        assert getattr(noted, name) == pytest.approx(difference, abs=1e-9)
        assert round(difference, 3) == getattr(paper, name)


def test_averages_are_better_than_any_single_network() -> None:
    single = references_for("ILSVRC-2012", "val")
    assert [reference.networks for reference in single] == [1] * 4
    averages = references_for("ILSVRC-2012", "val", averages=True)
    assert [(average.networks, average.top5_error) for average in averages[:2]] == [(5, 0.164), (7, 0.154)]
    assert averages[2:] == single and min(reference.top5_error for reference in single) > 0.164
