"""The sections on what goes wrong: frequent confusions and confident mistakes with pictures, errors by class."""

from collections.abc import Callable

import numpy as np
from sklearn.metrics import confusion_matrix

from common import ceil_div
from evaluation.ten_patch import Predictions
from evaluation.trained_run import TrainedRun
from evaluation.views import pixels_of
from report.drawing import picture, short_name
from report.page import Bar, Card, Cell, Gallery, Section, Table
from report.pictures import guess_card
from sharding import ShardSet

CONFUSIONS, MISTAKES, SIDE = 50, 24, 112
SHOWN = 12  # classes at each end
MATRIX_CLASSES = 30

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
        uris = [uri for sample in examples for uri in pictures(sample)]
        what = f"Left an image of {names[label]} taken for {names[guess]}, right one of {names[guess]}."
        title = f"{short_name(names[label])} → {short_name(names[guess])}"
        lines = [f"{count:,} of {images[label]:,} images"]
        cards.append(Card(pictures=uris, alternative=what, title=title, lines=lines))
    sentences = [
        f"{pairs[:, 2].sum():,} of {len(labels):,} images are taken for another class, in {len(pairs):,} "
        f"different ways; the {len(cards)} most frequent are these. Left the image confused with the highest "
        "probability, right the image of the other class that is known for it with the highest, else its first.",
        *notes,
    ]
    return _gallery_section("confusions", "Most frequent confusions", sentences, cards)


def _surest(predictions: Predictions, label: int, guess: int) -> list[int]:
    """Images of class `label` whose best guess is `guess`, the most probable first."""
    images = np.flatnonzero((predictions.labels == label) & (predictions.best[:, 0] == guess))
    return images[np.argsort(-predictions.probability[images, 0], kind="stable")].tolist()


def mistakes_section(run: TrainedRun, predictions: Predictions, pictures: Picture, notes: list[str]) -> Section:
    """The images whose wrong best guess has the highest probability."""
    names, wrong, cards = run.class_names, np.flatnonzero(~predictions.correct()), []
    for sample in wrong[np.argsort(-predictions.probability[wrong, 0], kind="stable")][:MISTAKES].tolist():
        label, best, shares = predictions.labels[sample], predictions.best[sample], predictions.probability[sample]
        what = f"Image {sample} of the split, of class {names[label]}."
        cards.append(guess_card(pictures(sample), what, names, label, zip(best[:3], shares)))
    sentence = "Wrong images whose best guess has the highest probability: hard, or mislabeled. The title is the class."
    return _gallery_section("mistakes", "Most confident mistakes", [sentence, *notes], cards)


def _gallery_section(name: str, title: str, sentences: list[str], cards: list[Card]) -> Section:
    if not cards:
        return Section(name, title, ["No image is taken for another class."])
    return Section(name, title, sentences, [Gallery(cards=cards)])


def classes_section(run: TrainedRun, predictions: Predictions) -> Section:
    """Best and worst classes, all of them in a table, the confusion matrix where it is small enough to read."""
    names, labels = run.class_names, predictions.labels
    images = np.bincount(labels, minlength=len(names))
    kinds = (1, 5) if len(names) > 5 else (1,)
    wrong = [np.bincount(labels[~predictions.correct(guesses)], minlength=len(names)) for guesses in kinds]
    taken_for: dict[int, str] = {}
    for label, guess, count in confused_pairs(predictions, len(names)).tolist():
        taken_for.setdefault(label, f"{short_name(names[guess])} ({count:,})")
    rows = []
    for label, wnid, _ in run.classes:
        shares = [counts[label] / images[label] for counts in wrong] if images[label] else []
        errors: list[Cell] = [Bar(text=f"{share:.1%}", share=share) for share in shares] or ["no images"] * len(wrong)
        about = (taken_for.get(label, ""), str(label), str(wnid or ""))
        rows.append((short_name(names[label], 40), f"{images[label]:,}", *errors, *about))
    errors_header = (f"top-{guesses} error" for guesses in kinds)
    header = ("class", "images", *errors_header, "most often taken for", "label", "wnid")
    with np.errstate(invalid="ignore", divide="ignore"):
        best, worst = ends(wrong[0] / images)
    blocks = [
        Table(header=header, rows=[rows[label] for label in chosen], caption=caption)
        for chosen, caption in ((best, "Lowest error."), (worst, "Highest error."))
        if len(chosen) and len(names) > SHOWN
    ]
    caption = "All classes, ten patches; class_errors.csv has the same."
    blocks.append(Table(header=header, rows=rows, form="sortable", caption=caption))
    if len(names) <= MATRIX_CLASSES:
        blocks.append(_matrix(predictions, names))
    return Section("classes", "Errors by class", blocks=blocks)


def ends(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes with the lowest errors (best first) and with the highest above 0 (worst first); no class is in both.

    errors: float [classes], NaN for a class without images, which is left out.
    """
    order = np.argsort(errors, kind="stable")
    order = order[np.isfinite(errors[order])]
    count = min(SHOWN, ceil_div(len(order), 2))
    worst = order[count:][::-1][:SHOWN]
    return order[:count], worst[errors[worst] > 0]


def _matrix(predictions: Predictions, names: list[str]) -> Table:
    counts = confusion_matrix(predictions.labels, predictions.best[:, 0], labels=np.arange(len(names)))
    short = [short_name(name, 18) for name in names]
    rows: list[tuple[Cell, ...]] = [
        (name, *(Bar(text=str(count), share=count / max(row.sum(), 1)) if count else "" for count in row))
        for name, row in zip(short, counts)
    ]
    caption = (
        f"Confusion matrix: {counts.trace():,} of {counts.sum():,} images on the diagonal. Rows are true classes, "
        "columns best guesses; shaded by the share of the true class."
    )
    return Table(header=("", *short), rows=rows, form="matrix", caption=caption)
