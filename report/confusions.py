"""The sections on what goes wrong: the most frequent confusions, and the most confident mistakes, with pictures."""

from collections.abc import Callable

import numpy as np

from evaluation.results import Predictions
from evaluation.trained_run import TrainedRun
from evaluation.views import pixels_of
from report.drawing import jpeg, short_name
from report.guesses import guess_bar
from report.page import Card, Gallery, Section
from sharding import ShardSet

CONFUSIONS, MISTAKES = 50, 24
SIDE = 112

Picture = Callable[[int], list[str]]


def picture_source(held_out: ShardSet | None, fingerprint: str) -> tuple[Picture, str]:
    """Sample id → its picture as a data URI, or nothing where the split that was evaluated is not at hand; and why."""
    if held_out is None or held_out.fingerprint != fingerprint:
        return lambda _sample: [], "Without pictures: the split that was evaluated is not where --shards says."
    return lambda sample: [jpeg(pixels_of(held_out, np.array([sample]))[0], SIDE)], ""


def confusions_section(run: TrainedRun, predictions: Predictions, picture: Picture, note: str) -> Section:
    """The fifty most frequent confusions: an image that was taken for another class, and one of that class."""
    names, labels, guesses = run.class_names, predictions.labels, predictions.best[:, 0]
    images, pairs, cards = np.bincount(labels, minlength=len(names)), confused_pairs(predictions, len(names)), []
    for label, guess, count in pairs[:CONFUSIONS].tolist():
        confused = np.flatnonzero((labels == label) & (guesses == guess))
        examples = _typical(predictions, guess)
        sure = confused[predictions.probability[confused, 0].argmax()]
        cards.append(
            Card(
                pictures=[*picture(int(sure)), *(picture(int(examples[0])) if len(examples) else [])],
                alternative=f"Left an image of {names[label]} taken for {names[guess]}, right one of {names[guess]}.",
                title=f"{short_name(names[label])} → {short_name(names[guess])}",
                lines=[f"{count:,} of {images[label]:,} images"],
            )
        )
    sentences = [
        f"{pairs[:, 2].sum():,} of {len(labels):,} images are taken for another class, in {len(pairs):,} "
        f"different ways; the {len(cards)} most frequent are these.",
        "Left the image that was confused with the highest probability, right an image of the class it was taken for.",
    ]
    if not cards:
        return Section(name="confusions", title="Confusions", sentences=["No image is taken for another class."])
    return Section(
        name="confusions",
        title="Most frequent confusions",
        sentences=[*sentences[: 1 if note else 2], *filter(None, [note])],
        blocks=[Gallery(cards=cards)],
    )


def confused_pairs(predictions: Predictions, classes: int) -> np.ndarray:
    """Rows (true class, best guess, images) of what was taken for another class, most frequent first: int64 [p, 3]."""
    labels, guesses = predictions.labels.astype(np.int64), predictions.best[:, 0].astype(np.int64)
    wrong = labels != guesses
    pairs, counts = np.unique(labels[wrong] * classes + guesses[wrong], return_counts=True)
    order = np.lexsort((pairs, -counts))
    return np.stack([*np.divmod(pairs, classes), counts], axis=1)[order]


def _typical(predictions: Predictions, label: int) -> np.ndarray:
    """Images of a class, int64, the one that is known for it with the highest probability first."""
    images = np.flatnonzero(predictions.labels == label)
    sureness = np.where(predictions.best[images, 0] == label, predictions.probability[images, 0], -1)
    return images[np.argsort(-sureness, kind="stable")]


def mistakes_section(run: TrainedRun, predictions: Predictions, picture: Picture, note: str) -> Section:
    """The images whose wrong best guess has the highest probability."""
    names, wrong = run.class_names, np.flatnonzero(~predictions.correct())
    order = wrong[np.argsort(-predictions.probability[wrong, 0], kind="stable")][:MISTAKES]
    cards = []
    for sample in order:
        label, pairs = predictions.labels[sample], zip(predictions.best[sample], predictions.probability[sample])
        cards.append(
            Card(
                pictures=picture(int(sample)),
                alternative=f"Image {sample} of the split, of class {names[label]}.",
                title=f"{short_name(names[label], 40)}",
                lines=[guess_bar(names[guess], float(share), guess == label) for guess, share in list(pairs)[:3]],
            )
        )
    sentences = [
        "Wrong images whose best guess has the highest probability: hard, or mislabeled. The title is the true class.",
        *filter(None, [note]),
    ]
    if not cards:
        sentences = ["No image is taken for another class."]
    return Section(
        name="mistakes",
        title="Most confident mistakes",
        sentences=sentences,
        blocks=[Gallery(cards=cards)] if cards else [],
    )
