"""Do ten views cost their convolutions and little else, and what did the seed's way cost?

    limit   the network alone, one plain call a batch, on views that lie ready, a tenth of an image each
    spread  the same views by `report.forward.Forward`: single-threaded passes side by side, as the evaluation runs it
    ours    `eval_tenpatch.evaluate`: each image decoded once, ten views, averages, scores
    seed    as `val_acc_multi.py` of github AsteroidHunter/replicatingAlexNet does it: Pillow reads one image at a time,
            the mean is subtracted from the whole image ten times, each view is cut on its own, and a pool of processes,
            one for each core, runs the network (here they load it once; there it is sent to them with every batch)

All run the same weights (recipe paper, as the seed's network) at the same number of views a batch.
"""

import io
import multiprocessing
import multiprocessing.pool
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.data import describe, shards
from benchmarks.measure import Case, Repeat, interleave, timed
from benchmarks.results import publish
from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import CROP, VIEW_OFFSETS, VIEWS, Recipe
from eval_tenpatch import evaluate
from model import AlexNet, ModelConfig
from report.forward import Forward
from report.views import average_views
from sharding import ShardSet

SEED = 0
RECIPE: Recipe = "paper"


def run(quick: bool, out: Path) -> None:
    """Measure, print and write `out`/tenpatch.{json,md,png}."""
    images, batch, width, repeats = (12, 4, 0.25, 2) if quick else (50, 25, 1.0, 5)
    with shards(images) as data:
        config = ModelConfig(recipe=RECIPE, classes=len(data.classes), width=width)
        network = AlexNet(config, seed=SEED).eval()
        context = multiprocessing.get_context("spawn")
        with context.Pool(cores(), start_worker, (config, data.statistics.mean_image)) as pool:
            difference = largest_difference(network, data, batch, pool)
            cases = [
                Case(
                    name="network alone, plain",
                    repeat=partial(network_alone, network, images, batch),
                    reference="limit",
                ),
                Case(name="network alone, a pass a core", repeat=partial(spread, network, images, batch)),
                Case(name="ours", repeat=partial(ours, network, data, batch), reference="ours"),
                Case(name="the seed's way", repeat=partial(seed, data, batch, pool), note=f"{cores()} processes"),
            ]
            rows = interleave(cases, repeats)
        publish(
            "tenpatch",
            rows,
            out=out,
            title="Ten-patch evaluation",
            data_set=describe(data),
            operations="decode, ten 224×224 views, minus the mean image, network in float32, average, score; "
            f"recipe {RECIPE}, width {width:g}, batches of {batch * VIEWS} views",
            cache="page cache warm",
            quick=quick,
            extra={"largest_probability_difference_to_seed": difference},
        )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def network_alone(forward: Callable[[torch.Tensor], torch.Tensor], images: int, batch: int) -> Repeat:
    """A forward function on standardised views made before the clock starts."""
    views = torch.randn(batch * VIEWS, 3, CROP, CROP).mul_(60).contiguous(memory_format=torch.channels_last)

    def work() -> int:
        with torch.inference_mode():
            for _ in range(images // batch):
                forward(views)
        return images // batch * batch

    return timed(work)


def spread(network: AlexNet, images: int, batch: int) -> Repeat:
    """The network as `ours` runs it, without anything else."""
    with Forward(network) as forward:
        return network_alone(forward, images, batch)


def ours(network: AlexNet, data: ShardSet, batch: int) -> Repeat:
    """The evaluation as the command does it."""
    return timed(lambda: len(evaluate(network, data, data.statistics, RECIPE, batch_size=batch).ids))


def seed(data: ShardSet, batch: int, pool: multiprocessing.pool.Pool) -> Repeat:
    """The pool gets encoded images, as it would file names."""

    def work() -> int:
        return sum(len(best) for best, _ in pool.imap(answers_the_seeds_way, encoded_batches(data, batch)))

    return timed(work)


def encoded_batches(data: ShardSet, batch: int) -> list[list[bytes]]:
    """The JPEG bytes of all images, `batch` images together."""
    starts = range(0, len(data), batch)
    return [
        [view.tobytes() for view in data.images(np.arange(start, min(start + batch, len(data))))] for start in starts
    ]


_worker: tuple[AlexNet, torch.Tensor]


def start_worker(config: ModelConfig, mean_image: np.ndarray) -> None:
    """What a process of the pool has from its start: the network and the mean image float32 [3, 256, 256]."""
    global _worker
    torch.set_num_threads(1)
    mean = torch.from_numpy(mean_image.astype(np.float32)).permute(2, 0, 1)
    _worker = AlexNet(config, seed=SEED).eval(), mean


def answers_the_seeds_way(encoded: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The five best classes [n, 5] and the mean logits [n, classes] of JPEG images, one view at a time."""
    network, mean = _worker
    stacks = []
    for content in encoded:
        image = torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)
        views = []
        for y, x in VIEW_OFFSETS:
            for mirrored in (True, False):
                view = (image - mean)[:, y : y + CROP, x : x + CROP]
                views.append(torch.flip(view, dims=(2,)) if mirrored else view)
        stacks.append(torch.stack(views))
    with torch.inference_mode():
        logits = network(torch.vstack(stacks)).unflatten(0, (-1, VIEWS)).mean(dim=1)
    return logits.topk(min(5, logits.shape[1]), dim=1).indices.numpy(), logits.numpy()


def largest_difference(network: AlexNet, data: ShardSet, batch: int, pool: multiprocessing.pool.Pool) -> float:
    """Before timing: the largest difference in probability (of the mean logits) to the seed's way, over one batch."""
    config = DataConfig(recipe=RECIPE, batch_size=batch, training=False, views=VIEWS)
    with Loader(data, config) as loader, torch.inference_mode():
        own = average_views(network(next(iter(loader.epoch(0))).images)).mean_logits.softmax(dim=1)
    _, logits = pool.apply(answers_the_seeds_way, (encoded_batches(data, batch)[0],))
    return float((own - torch.from_numpy(logits).double().softmax(dim=1)).abs().max())
