"""The section on the training images nearest to held-out ones in fc7 features (Krizhevsky 2012, Figure 4, right)."""

import numpy as np
from scipy.spatial.distance import cdist

from evaluation.trained_run import TrainedRun
from evaluation.views import Classifier, pixels_of
from report.drawing import picture, short_name
from report.guesses import spread
from report.page import Card, Gallery, Section
from sharding import ShardSet

QUERIES, NEIGHBORS, SIDE = 5, 6, 128
CHUNK = 250


def nearest(training: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Rows of `training` float [n, f] nearest to each of `queries` [q, f], nearest first: int64 [q, ≤count]."""
    return np.argsort(cdist(queries, training), axis=1, kind="stable")[:, :count]


def neighbors_section(
    run: TrainedRun, classifier: Classifier, held_out: ShardSet, training: ShardSet, among: int
) -> Section:
    """Five held-out images, a row each, and the six training images nearest to each in fc7's outputs."""
    names, searched = run.class_names, min(among, len(training))
    ids = spread(len(held_out), QUERIES, offset=0.25)
    queries, labels = pixels_of(held_out, ids), held_out.labels(ids)
    features = [
        classifier.features(pixels_of(training, np.arange(start, min(start + CHUNK, searched))))
        for start in range(0, searched, CHUNK)
    ]
    neighbors = nearest(np.concatenate(features), classifier.features(queries), NEIGHBORS)
    same, galleries = 0, []
    for image, label, row in zip(queries, labels, neighbors):
        cards = [_card(image, f"held out: {short_name(names[label], 18)}", marked=False)]
        for other, other_label in zip(pixels_of(training, row), training.labels(row)):
            same += int(other_label == label)
            cards.append(_card(other, short_name(names[other_label], 18), marked=bool(other_label != label)))
        galleries.append(Gallery(cards=cards, size="small"))
    sentences = [
        f"The first image of each row is held out, the others are the training images nearest to it: {same} of "
        f"{neighbors.size} are of its class; the names of the others are orange.",
        "Krizhevsky 2012, Figure 4, right: Euclidean distance of fc7's outputs for the center crop, searched among "
        f"{searched:,} of {len(training):,} training images.",
    ]
    return Section(name="neighbors", title="Nearest training images", sentences=sentences, blocks=galleries)


def _card(pixels: np.ndarray, title: str, *, marked: bool) -> Card:
    return Card(pictures=[picture(pixels, SIDE)], alternative=title, title=title, marked=marked)
