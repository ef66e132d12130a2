"""The sections of pictures: filters, guesses and neighbors (Krizhevsky 2012, Figures 3 and 4), training batches."""

from collections.abc import Iterable

import numpy as np
import torch
from scipy.spatial.distance import cdist

from dali_pipelines import Batch, DataConfig, Loader, LoaderError, Normalize
from evaluation.trained_run import TrainedRun
from evaluation.views import Classifier, pixels_of
from model import ModelConfig
from report.drawing import picture, short_name
from report.page import Bar, Card, Gallery, Section
from sharding import ShardSet

SHOWN, BEST = 8, 5
QUERIES, NEIGHBORS, CHUNK = 5, 6, 250
SHOWN_OF_BATCH, SIDE = 24, 128


def filter_pictures(weights: np.ndarray) -> np.ndarray:
    """conv1 weights float [filters, 3, k, k] → uint8 [filters, k, k, 3]: 0 is mid gray, each filter fills its range.

    Each filter is divided by its own largest absolute weight, so that faint filters are seen as well.
    """
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    scaled = weights / np.where(largest == 0, 1, largest)
    return (127.5 + 127.5 * scaled).round().astype(np.uint8).transpose(0, 2, 3, 1)


def filters_section(run: TrainedRun) -> Section:
    """A sheet for each tower: the first half of conv1's filters is tower A (the paper's GPU 1), the second tower B."""
    weights = run.state["model"]["conv1.weight"].float().numpy()
    towers = ModelConfig(**run.state["model_config"]).towers
    what, cards = f"filters of conv1, {weights.shape[2]}×{weights.shape[3]} pixels in color.", []
    for filters, tower in zip(np.split(filter_pictures(weights), towers), "AB"):
        uris = [picture(pixels) for pixels in filters]
        cards.append(Card(pictures=uris, title=f"tower {tower}", alternative=f"{len(filters)} {what}"))
    caption = "Arranged as in Krizhevsky 2012, Figure 3. Gray is a weight of 0; each filter fills its own range."
    return Section("filters", "First-layer filters", blocks=[Gallery(cards=cards, size="sheet", caption=caption)])


def spread(samples: int, count: int, offset: float = 0.5) -> np.ndarray:
    """At most `count` ids int64, spread evenly over 0..samples-1, each in the same place of its own stretch."""
    count = min(count, samples)
    return np.floor((np.arange(count) + offset) * samples / max(count, 1)).astype(np.int64)


def guesses_section(run: TrainedRun, classifier: Classifier, held_out: ShardSet) -> Section:
    """Eight held-out images with their five best guesses, the true class marked."""
    ids, names = spread(len(held_out), SHOWN), run.class_names
    pixels, cards = pixels_of(held_out, ids), []
    for image, label, probabilities in zip(pixels, held_out.labels(ids), classifier.probabilities(pixels)):
        best = np.argsort(-probabilities, kind="stable")[:BEST]
        what = f"A held-out image of class {names[label]}."
        cards.append(guess_card([picture(image, 256)], what, names, label, zip(best, probabilities[best])))
    caption = (
        "Krizhevsky 2012, Figure 4, left. Ten patches; the true class is orange with a tick. The images are spread "
        f"evenly over split {held_out.split}, not chosen by result."
    )
    return Section("guesses", "Guesses on held-out images", blocks=[Gallery(cards=cards, caption=caption)])


def guess_card(
    pictures: list[str], alternative: str, names: list[str], label: int, guesses: Iterable[tuple[int, float]]
) -> Card:
    """An image of class `label`, a bar for each guess (class, probability): `✓ goldfish 50.0 %`, marked, if right."""
    bars = []
    for guess, share in guesses:
        text = f"{'✓ ' if guess == label else ''}{short_name(names[guess])} {100 * float(share):.1f} %"
        bars.append(Bar(text=text, share=float(share), marked=bool(guess == label)))
    return Card(pictures=pictures, alternative=alternative, title=short_name(names[label], 40), lines=bars)


def nearest(training: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Rows of `training` float [n, f] nearest to each of `queries` [q, f], nearest first: int64 [q, ≤count]."""
    return np.argsort(cdist(queries, training), axis=1, kind="stable")[:, :count]


def neighbors_section(
    run: TrainedRun, classifier: Classifier, held_out: ShardSet, training: ShardSet, among: int
) -> Section:
    """Five held-out images, a row each, and the six training images nearest to each in fc7's outputs."""
    names, searched = [short_name(name, 18) for name in run.class_names], min(among, len(training))
    ids = spread(len(held_out), QUERIES, offset=0.25)
    queries, labels = pixels_of(held_out, ids), held_out.labels(ids)
    features = [
        classifier.features(pixels_of(training, np.arange(start, min(start + CHUNK, searched))))
        for start in range(0, searched, CHUNK)
    ]
    neighbors = nearest(np.concatenate(features), classifier.features(queries), NEIGHBORS)
    found, galleries = training.labels(neighbors.ravel()).reshape(neighbors.shape), []
    for image, label, row, theirs in zip(queries, labels, neighbors, found):
        shown = [(image, f"held out: {names[label]}", False)]
        shown += zip(pixels_of(training, row), [names[other] for other in theirs], (theirs != label).tolist())
        cards = [
            Card(pictures=[picture(pixels, SIDE)], alternative=title, title=title, marked=marked)
            for pixels, title, marked in shown
        ]
        galleries.append(Gallery(cards=cards, size="small"))
    sentences = [
        f"The first image of each row is held out, the others are the training images nearest to it: "
        f"{(found == labels[:, None]).sum()} of {neighbors.size} are of its class; the names of the others are orange.",
        "Krizhevsky 2012, Figure 4, right: Euclidean distance of fc7's outputs for the center crop, searched among "
        f"{searched:,} of {len(training):,} training images.",
    ]
    return Section("neighbors", "Nearest training images", sentences, galleries)


def with_mean(batch: Batch, normalize: Normalize) -> np.ndarray:
    """Undo division and mean of a standardized training batch: uint8 [n, 224, 224, 3], clipped to 0..255.

    Crop, mirror and color noise stay: what the recipe makes of black pixels is taken away, but for its color offset.
    """
    augmentation = batch.augmentation
    black = torch.zeros(len(augmentation), 3, *batch.images.shape[2:], dtype=torch.uint8, device=batch.images.device)
    offset = torch.from_numpy(augmentation.rgb_offset)[:, :, None, None].to(batch.images)
    seen = ((batch.images - normalize(black, augmentation)) * augmentation.divisor + offset).clamp(0, 255).round()
    return seen.to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()


def augmented_section(run: TrainedRun, training: ShardSet) -> Section:
    """The first training batches of epochs 1 and 2, in the batch's order."""
    title, galleries = "Training batches as the network sees them", []
    try:
        config = DataConfig(**run.state["data_config"])
    except (TypeError, ValueError) as error:
        return Section("augmented", title, [f"No batch: data_config of the checkpoint: {error}"])
    normalize = Normalize(run.statistics, run.recipe, "cpu")
    try:
        with Loader(training, config, statistics=run.statistics) as loader:
            for epoch in (0, 1):
                batch = next(iter(loader.epoch(epoch)))
                noise = float(np.abs(batch.augmentation.rgb_offset[:SHOWN_OF_BATCH]).max())
                seen = (picture(pixels, SIDE) for pixels in with_mean(batch, normalize)[:SHOWN_OF_BATCH])
                cards = [Card(pictures=[uri], alternative="A training image, cropped.") for uri in seen]
                caption = f"First batch of epoch {epoch + 1}, color noise of up to {noise:.0f} gray levels."
                galleries.append(Gallery(cards=cards, size="small", caption=caption))
    except LoaderError as error:
        return Section("augmented", title, [f"No batch: {error}"])
    crops = "crops" if config.random_crops else "center crops"
    what = f"{crops}, mirrors and color noise" if config.augment else "center crops (trained without augmentation)"
    sentence = f"Recipe {run.recipe}: 224×224 {what}, the mean added back, values clipped to 0..255."
    return Section("augmented", title, [sentence], galleries)
