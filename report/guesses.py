"""The section on held-out pictures with the five best guesses as bars (Krizhevsky 2012, Figure 4, left)."""

import numpy as np

from evaluation.trained_run import TrainedRun
from evaluation.views import Classifier, pixels_of
from report.drawing import picture, short_name
from report.page import Bar, Card, Gallery, Section
from sharding import ShardSet

SHOWN, BEST = 8, 5


def spread(samples: int, count: int, offset: float = 0.5) -> np.ndarray:
    """At most `count` ids int64, spread evenly over 0..samples-1, each in the same place of its own stretch."""
    count = min(count, samples)
    return np.floor((np.arange(count) + offset) * samples / max(count, 1)).astype(np.int64)


def guesses_section(run: TrainedRun, classifier: Classifier, held_out: ShardSet) -> Section:
    """Eight held-out images with their five best guesses, the true class marked."""
    ids, names = spread(len(held_out), SHOWN), run.class_names
    pixels, labels = pixels_of(held_out, ids), held_out.labels(ids)
    table = classifier.probabilities(pixels)
    cards = []
    for image, label, probabilities in zip(pixels, labels, table):
        best = np.argsort(-probabilities, kind="stable")[:BEST]
        cards.append(
            Card(
                pictures=[picture(image, 256)],
                alternative=f"A held-out image of class {names[label]}.",
                title=short_name(names[label], 40),
                lines=[guess_bar(names[guess], float(probabilities[guess]), guess == label) for guess in best],
            )
        )
    caption = (
        "Krizhevsky 2012, Figure 4, left. Ten patches; the true class is orange with a tick. The images are spread "
        f"evenly over split {held_out.split}, not chosen by result."
    )
    return Section(name="guesses", title="Guesses on held-out images", blocks=[Gallery(cards=cards, caption=caption)])


def guess_bar(name: str, probability: float, correct: bool) -> Bar:
    """`✓ goldfish 50.0 %`, marked, or the same without tick and mark."""
    text = f"{'✓ ' if correct else ''}{short_name(name)} {100 * probability:.1f} %"
    return Bar(text=text, share=probability, marked=correct)
