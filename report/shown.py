"""The sections that show pictures of the data set: guesses, neighbors, augmented batches."""

import numpy as np

from dali_pipelines import DataConfig, Loader, LoaderError, Normalize
from evaluation.trained_run import TrainedRun
from evaluation.views import Classifier, pixels_of
from model import make_schedule
from report.augmented import draw_augmented, with_mean
from report.drawing import Picture, png, short_name
from report.guesses import draw_guesses
from report.neighbors import draw_neighbors, nearest
from report.page import Section
from sharding import ShardSet

GUESSED, QUERIES, NEIGHBORS, BEST = 8, 5, 6, 5
SHEET = 24  # pictures of each batch on the augmented sheet
CHUNK = 250


def spread(samples: int, count: int, offset: float = 0.5) -> np.ndarray:
    """At most `count` ids int64, spread evenly over 0..samples-1, each in the same place of its own stretch."""
    count = min(count, samples)
    return np.floor((np.arange(count) + offset) * samples / max(count, 1)).astype(np.int64)


def guesses_section(run: TrainedRun, classifier: Classifier, held_out: ShardSet) -> Section:
    """Eight held-out images with their five best guesses."""
    ids, names = spread(len(held_out), GUESSED), run.class_names
    pixels, labels = pixels_of(held_out, ids), held_out.labels(ids)
    table = classifier.probabilities(pixels)
    best = np.argsort(-table, axis=1, kind="stable")[:, :BEST]
    probabilities = np.take_along_axis(table, best, axis=1)
    said = [
        f"{short_name(names[label])}: "
        + ", ".join(f"{short_name(names[guess])} {share:.0%}" for guess, share in zip(row, shares))
        for label, row, shares in zip(labels, best, probabilities)
    ]
    picture = Picture(
        name="guesses",
        png=png(draw_guesses(list(pixels), labels, best, probabilities, names)),
        alternative=f"{len(ids)} held-out images, true class and best guesses. " + "; ".join(said) + ".",
        caption="Krizhevsky 2012, Figure 4, left. Ten patches; the true class is orange with a tick. The images are "
        f"spread evenly over split {held_out.split}, not chosen by result.",
    )
    return Section(name="guesses", title="Guesses on held-out images", pictures=[picture])


def neighbors_section(
    run: TrainedRun, classifier: Classifier, held_out: ShardSet, training: ShardSet, among: int
) -> Section:
    """Five held-out images and the six training images nearest to each in fc7's outputs."""
    names, searched = run.class_names, min(among, len(training))
    ids = spread(len(held_out), QUERIES, offset=0.25)
    queries = pixels_of(held_out, ids)
    features = [
        classifier.features(pixels_of(training, np.arange(start, min(start + CHUNK, searched))))
        for start in range(0, searched, CHUNK)
    ]
    found, _ = nearest(np.concatenate(features), classifier.features(queries), NEIGHBORS)
    labels, near = held_out.labels(ids), np.stack([training.labels(row) for row in found])
    query_names, neighbor_names = [names[label] for label in labels], [[names[label] for label in row] for row in near]
    same = near == labels[:, None]
    said = "; ".join(
        f"{short_name(name)}: {', '.join(map(short_name, row))}" for name, row in zip(query_names, neighbor_names)
    )
    picture = Picture(
        name="neighbors",
        png=png(
            draw_neighbors(
                list(queries), query_names, [list(pixels_of(training, row)) for row in found], neighbor_names, same
            )
        ),
        alternative=f"{len(ids)} held-out images, each with its {found.shape[1]} nearest training images, "
        f"{same.sum()} of {found.size} of the same class. {said}.",
        caption="Krizhevsky 2012, Figure 4, right: Euclidean distance of fc7's outputs for the center crop, searched "
        f"among {searched} of {len(training)} training images. Another class than the held-out image's is orange.",
    )
    return Section(name="neighbors", title="Nearest training images", pictures=[picture])


def augmented_section(run: TrainedRun, training: ShardSet) -> Section:
    """Training batches as the network sees them."""
    title, options = "Training batches as the network sees them", run.state["train_config"]
    config = DataConfig(
        recipe=run.recipe,
        batch_size=options["batch_size"],
        seed=options["seed"],
        augment=options["augment"] == "on",
        noise_epochs=make_schedule(run.recipe, options["epochs"]).noise_epochs,
        window=options["window"],
    )
    normalize = Normalize(run.statistics, run.recipe, "cpu")
    sheets, titles = [], []
    try:
        with Loader(training, config, statistics=run.statistics) as loader:
            for epoch in (0, 1):
                batch = next(iter(loader.epoch(epoch)))
                noise = float(np.abs(batch.augmentation.rgb_offset[:SHEET]).max())
                sheets.append(with_mean(batch, normalize)[:SHEET])
                titles.append(f"first batch of epoch {epoch + 1}, color noise of up to {noise:.0f} gray levels")
    except LoaderError as error:
        return Section(name="augmented", title=title, sentences=[f"No batch: {error}"])
    what = (
        "crops, mirrors and color noise"
        if config.augment
        else "center crops (the run was trained without augmentation)"
    )
    picture = Picture(
        name="augmented",
        png=png(draw_augmented(sheets, titles)),
        alternative=f"The first {len(sheets[0])} training images of epochs 1 and 2 as 224×224 {what}, in batch order: "
        f"{'; '.join(titles)}.",
        caption=f"Recipe {run.recipe}: {what}, the mean added back, values clipped to 0..255.",
    )
    return Section(name="augmented", title=title, pictures=[picture])
