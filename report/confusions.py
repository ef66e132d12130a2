"""The sections on what goes wrong: the most frequent confusions, and the most confident mistakes, with pictures."""

from collections.abc import Callable

import numpy as np

from evaluation.results import Predictions
from evaluation.trained_run import TrainedRun
from evaluation.views import pixels_of
from report.drawing import picture, short_name
from report.guesses import guess_bar
from report.page import Card, Gallery, Section
from sharding import ShardSet

CONFUSIONS, MISTAKES = 50, 24
SIDE = 112

Picture = Callable[[int], list[str]]


def picture_source(held_out: ShardSet | None, fingerprint: str) -> tuple[Picture, list[str]]:
    """Sample id → its picture, or none where the split that was evaluated is not at hand; then a sentence says so."""
    if held_out is None or held_out.fingerprint != fingerprint:
        return lambda _sample: [], ["Without pictures: the split that was evaluated is not where --shards says."]
    return lambda sample: [picture(pixels_of(held_out, np.array([sample]))[0], SIDE)], []


def confused_pairs(predictions: Predictions, classes: int) -> np.ndarray:
    """Rows (true class, best guess, images) of what was taken for another class, most frequent first: int64 [p, 3]."""
    labels, guesses = predictions.labels.astype(np.int64), predictions.best[:, 0].astype(np.int64)
    wrong = labels != guesses
    pairs, counts = np.unique(labels[wrong] * classes + guesses[wrong], return_counts=True)
    order = np.lexsort((pairs, -counts))
    return np.stack([*np.divmod(pairs, classes), counts], axis=1)[order]


def confusions_section(run: TrainedRun, predictions: Predictions, pictures: Picture, notes: list[str]) -> Section:
    """The fifty most frequent confusions: an image that was taken for another class, and one of that class."""
    names, labels, pairs = run.class_names, predictions.labels, confused_pairs(predictions, len(run.classes))
    images, cards = np.bincount(labels, minlength=len(names)), []
    for label, guess, count in pairs[:CONFUSIONS].tolist():
        of_guess = [*_surest(predictions, guess, guess), *np.flatnonzero(labels == guess).tolist()]
        examples = [*_surest(predictions, label, guess)[:1], *of_guess[:1]]
        cards.append(
            Card(
                pictures=[uri for sample in examples for uri in pictures(sample)],
                alternative=f"Left an image of {names[label]} taken for {names[guess]}, right one of {names[guess]}.",
                title=f"{short_name(names[label])} → {short_name(names[guess])}",
                lines=[f"{count:,} of {images[label]:,} images"],
            )
        )
    sentences = [
        f"{pairs[:, 2].sum():,} of {len(labels):,} images are taken for another class, in {len(pairs):,} "
        f"different ways; the {len(cards)} most frequent are these. Left the image confused with the highest "
        "probability, right the image of the other class that is known for it with the highest, else its first.",
        *notes,
    ]
    return _section("confusions", "Most frequent confusions", sentences, cards)


def _surest(predictions: Predictions, label: int, guess: int) -> list[int]:
    """Images of class `label` whose best guess is `guess`, the most probable first."""
    images = np.flatnonzero((predictions.labels == label) & (predictions.best[:, 0] == guess))
    return images[np.argsort(-predictions.probability[images, 0], kind="stable")].tolist()


def mistakes_section(run: TrainedRun, predictions: Predictions, pictures: Picture, notes: list[str]) -> Section:
    """The images whose wrong best guess has the highest probability."""
    names, wrong, cards = run.class_names, np.flatnonzero(~predictions.correct()), []
    for sample in wrong[np.argsort(-predictions.probability[wrong, 0], kind="stable")][:MISTAKES].tolist():
        label, guesses = predictions.labels[sample], zip(predictions.best[sample], predictions.probability[sample])
        cards.append(
            Card(
                pictures=pictures(sample),
                alternative=f"Image {sample} of the split, of class {names[label]}.",
                title=short_name(names[label], 40),
                lines=[guess_bar(names[guess], float(share), guess == label) for guess, share in list(guesses)[:3]],
            )
        )
    sentence = "Wrong images whose best guess has the highest probability: hard, or mislabeled. The title is the class."
    return _section("mistakes", "Most confident mistakes", [sentence, *notes], cards)


def _section(name: str, title: str, sentences: list[str], cards: list[Card]) -> Section:
    if not cards:
        return Section(name=name, title=title, sentences=["No image is taken for another class."])
    return Section(name=name, title=title, sentences=sentences, blocks=[Gallery(cards=cards)])
