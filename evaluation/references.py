"""The published errors that a run is judged by, what each part is said to be worth, and whose class table is whose.

Figures: the notes in the original program's layer files (github computerhistory/AlexNet-Source-Code; its net #145 on
ILSVRC-2010 is Krizhevsky 2012, Table 1) and the README of github AsteroidHunter/replicatingAlexNet ("the seed").
"""

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NO_REFERENCE = "no published reference for this data set"
# sha256 of the 1,000 sorted wnids, joined by line feeds
_CHALLENGES = {
    "5365280f1c0b13c7f97e278f62f1d9b82b91ea06c4aeb6a68b6ac8caa374059e": "ILSVRC-2010",  # from its meta.mat
    "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd": "ILSVRC-2012",
}
_IMAGES = {("ILSVRC-2010", "val"): 50_000, ("ILSVRC-2010", "test"): 150_000, ("ILSVRC-2012", "val"): 50_000}


@dataclass(frozen=True)
class Reference:
    """One published result. Errors as fractions, log loss in nats; None where it was not published."""

    run: str
    challenge: str
    split: str
    top1_error: float
    top5_error: float
    log_loss: float | None = None
    center_top1_error: float | None = None
    center_top5_error: float | None = None
    center_log_loss: float | None = None


_TABLE_1 = "original #145-2010 (the paper's Table 1)"
REFERENCES = (
    Reference(_TABLE_1, "ILSVRC-2010", "test", 0.37473, 0.16999, 1.614660, 0.39025, 0.18295, 1.706031),
    Reference("original #145-half (one column)", "ILSVRC-2010", "test", 0.39168, 0.18229, 1.702802),
    Reference("seed (replicatingAlexNet, mean of logits)", "ILSVRC-2010", "val", 0.4025, 0.1968),
    Reference("original #145", "ILSVRC-2012", "val", 0.40664, 0.18210, 1.741473),
    Reference("original #145, rate pushed back up, to epoch 135", "ILSVRC-2012", "val", 0.40250, 0.17994, 1.725738),
    Reference("original #147 (pooling without overlap)", "ILSVRC-2012", "val", 0.41058, 0.18510, 1.757644),
    Reference("original #148 (no normalization layers)", "ILSVRC-2012", "val", 0.42034, 0.19362, 1.822358),
)
# Krizhevsky 2012, Table 2: the mean of several networks' softmax outputs. Of the seven, two were pre-trained on more.
AVERAGES = (
    Reference("paper, five networks averaged", "ILSVRC-2012", "val", 0.381, 0.164),
    Reference("paper, seven networks averaged", "ILSVRC-2012", "val", 0.367, 0.154),
)


@dataclass(frozen=True)
class PartWorth:
    """By how much the error grows without a part, as fractions of 1; None where no figure was published.

    part: its name for `train.py --ablate`. approximate: whether the source says "about" or "over".
    """

    part: str
    source: str
    top1: float | None = None
    top5: float | None = None
    approximate: bool = False


_MIDDLE_LAYERS = "Krizhevsky 2012 §7: any of the middle layers, about 2 points"
PART_WORTHS = (
    PartWorth("norms", "Krizhevsky 2012 §3.3", 0.014, 0.012),
    PartWorth("norms", "layer-params-148.cfg less -145.cfg, ILSVRC-2012 val", 0.01370, 0.01152),
    PartWorth("overlap", "Krizhevsky 2012 §3.4", 0.004, 0.003),
    PartWorth("overlap", "layer-params-147.cfg less -145.cfg, ILSVRC-2012 val", 0.00394, 0.00300),
    PartWorth("columns", "Krizhevsky 2012 §3.2", 0.017, 0.012),
    PartWorth("columns", "layer-params-145-half.cfg less -145-2010.cfg, ILSVRC-2010 test", 0.01695, 0.01230),
    PartWorth("color", "Krizhevsky 2012 §4.1: over 1 point", 0.01, approximate=True),
    PartWorth("crops", "Krizhevsky 2012 §4.1: substantial overfitting without them"),
    PartWorth("dropout", "Krizhevsky 2012 §4.2: substantial overfitting without it"),
    *(PartWorth(layer, _MIDDLE_LAYERS, 0.02, approximate=True) for layer in ("conv3", "conv4", "conv5")),
)


def worth_of(part: str) -> list[PartWorth]:
    """What the sources say about a part, the paper first; none for a name that they do not know."""
    return [worth for worth in PART_WORTHS if worth.part == part]


def challenge_of(classes: Iterable[tuple[int, str | None, str | None]]) -> str | None:
    """ "ILSVRC-2010" or "ILSVRC-2012" if the classes (label, wnid, name) are all of its 1,000, else None.

    The order of the labels does not matter; a class without wnid is taken to be named by it.
    """
    wnids = sorted(wnid or name or "" for _, wnid, name in classes)
    return _CHALLENGES.get(hashlib.sha256("\n".join(wnids).encode()).hexdigest())


def references_for(challenge: str | None, split: str) -> list[Reference]:
    """The published results of a challenge, those of the same split first; none for any other data set."""
    found = [reference for reference in REFERENCES if reference.challenge == challenge]
    return sorted(found, key=lambda reference: reference.split != split)


def reference_note(challenge: str | None, split: str, images: int) -> str:
    """What to know of the references before comparing with them: that there are none, or that images are missing."""
    if challenge is None:
        return NO_REFERENCE
    whole = _IMAGES.get((challenge, split))
    if whole == images:
        return ""
    if whole is None:
        return f"the references are for other splits of {challenge}"
    return f"not comparable: these are {images} of the {whole} images of {challenge} {split}"


def published_curve() -> dict[str, np.ndarray]:
    """The seed's 90 epochs on ILSVRC-2010: float64 [90] by column name (`evaluation/published_curve.csv`).

    `epoch` counts epochs done; errors are fractions; `images_per_second` comes from the times between epochs.
    """
    with Path(__file__).with_name("published_curve.csv").open(newline="") as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
