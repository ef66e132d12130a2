"""The published errors that a run is judged by, what each part is said to be worth, and whose class table is whose.

The figures stand in `published.toml` and `published_curve.csv`, with their sources.
"""

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# sha256 of the 1,000 sorted wnids, joined by line feeds
_CHALLENGES = {
    "5365280f1c0b13c7f97e278f62f1d9b82b91ea06c4aeb6a68b6ac8caa374059e": "ILSVRC-2010",  # from its meta.mat
    "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd": "ILSVRC-2012",
}
_IMAGES = {("ILSVRC-2010", "val"): 50_000, ("ILSVRC-2010", "test"): 150_000, ("ILSVRC-2012", "val"): 50_000}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One published result, of so many networks averaged. Fractions; log loss in nats, None where not published."""

    networks: int
    run: str
    challenge: str
    split: str
    top1_error: float
    top5_error: float
    log_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class PartWorth:
    """By how much the error grows without a part, as fractions; None where no figure was published.

    part: its name for `train.py --ablate`. about: whether the source says "about" or "over".
    """

    part: str
    source: str
    top1: float | None = None
    top5: float | None = None
    about: str | None = None

    def in_points(self) -> tuple[str, str]:
        """Top-1 and top-5, as `about +1.00`, in percentage points; empty where no figure was published."""
        about = f"{self.about} " if self.about else ""
        top1, top5 = ("" if share is None else f"{about}{100 * share:+.2f}" for share in (self.top1, self.top5))
        return top1, top5


_PUBLISHED = tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))
REFERENCES = tuple(Reference(**row) for row in _PUBLISHED["errors"])
PART_WORTHS = tuple(PartWorth(**row) for row in _PUBLISHED["parts"])


def worth_of(part: str) -> list[PartWorth]:
    """What the sources say about a part, the paper first; none for a name that they do not know."""
    return [worth for worth in PART_WORTHS if worth.part == part]


def challenge_of(classes: Iterable[tuple[int, str | None, str | None]]) -> str | None:
    """ "ILSVRC-2010" or "ILSVRC-2012" if the classes (label, wnid, name) are all of its 1,000, else None.

    The order of the labels does not matter; a class without wnid is taken to be named by it.
    """
    wnids = sorted(wnid or name or "" for _, wnid, name in classes)
    return _CHALLENGES.get(hashlib.sha256("\n".join(wnids).encode()).hexdigest())


def references_for(challenge: str | None, split: str, *, averages: bool = False) -> list[Reference]:
    """The published results of a challenge, those of the same split first; none for any other data set.

    averages: those of several networks too, before all others.
    """
    found = [item for item in REFERENCES if item.challenge == challenge and (averages or item.networks == 1)]
    return sorted(found, key=lambda item: (item.networks == 1, item.split != split))


def reference_note(challenge: str | None, split: str, images: int) -> str:
    """What to know of the references before comparing with them: that there are none, or that images are missing."""
    if challenge is None:
        return "no published reference for this data set"
    whole = _IMAGES.get((challenge, split))
    if whole is None:
        return f"the references are for other splits of {challenge}"
    return "" if whole == images else f"not comparable: these are {images} of the {whole} images of {challenge} {split}"


def published_curve() -> dict[str, np.ndarray]:
    """The seed's 90 epochs on ILSVRC-2010: float64 [90] by column name (`evaluation/published_curve.csv`).

    `epoch` counts epochs done; errors are fractions; `images_per_second` comes from the times between epochs.
    """
    path = Path(__file__).with_name("published_curve.csv")
    curve = np.genfromtxt(path, delimiter=",", names=True, skip_header=3)  # three lines of notes
    return {name: curve[name] for name in curve.dtype.names or ()}
