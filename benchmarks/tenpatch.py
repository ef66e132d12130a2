"""Do ten views cost their convolutions and little else, and what did the seed's way cost?

    limit   the network alone, one plain call a batch, on views that lie ready, a tenth of an image each
    spread  the same views by `evaluation.views.infer`: single-threaded passes side by side, as in the evaluation
    ours    `evaluation.ten_patch`: each image decoded once, ten views, averages, scores
    seed    the seed's way, after `val_acc_multi.py` of github AsteroidHunter/replicatingAlexNet: Pillow reads one image
            at a time, the mean is subtracted from the whole image ten times, each view is cut and mirrored on its own,
            logits are averaged, by a pool of processes, one a core (there each batch brings the network along; here
            each process loads it once)

All run the same weights (recipe paper, as the seed's network) at the same number of views a batch.
"""

import functools
import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image

from benchmarks.data import describe, shards
from benchmarks.measure import interleave, timed
from benchmarks.processes import fork_server
from benchmarks.results import Table
from dali_pipelines.augmentation import CROP, VIEWS, RecipeName
from evaluation.ten_patch import evaluate
from evaluation.views import Classifier, infer
from model import AlexNet, ModelConfig
from sharding.options import CORES

RECIPE: RecipeName = "paper"
CORNERS = ((0, 0), (0, 32), (32, 32), (32, 0), (16, 16))


def run(quick: bool) -> Table:
    """Measure all four."""
    images, batch, width, repeats = (12, 4, 0.125, 2) if quick else (50, 25, 1.0, 5)
    with shards(images) as data:
        config = ModelConfig(recipe=RECIPE, classes=len(data.classes), width=width)
        network = load_network(config)
        encoded = [view.tobytes() for view in data.images(np.arange(images))]
        parts = [encoded[start : start + batch] for start in range(0, images, batch)]
        seed = partial(answers, config, data.statistics.mean_image)
        member = Classifier(network, data.statistics, RECIPE, torch.device("cpu"))
        with fork_server(__name__).Pool(CORES, torch.set_num_threads, (1,)) as pool:
            cases: dict[str, Callable[[], int]] = {
                "network alone, plain": partial(network_alone, network, images, batch),
                "network alone, a pass a core": partial(network_alone, partial(infer, network), images, batch),
                "ours": lambda: len(evaluate([member], data, batch_size=batch).rows.ids),
                # The pool gets encoded images, as it would file names.
                "the seed's way": lambda: sum(len(best) for best, _ in pool.imap(seed, parts)),
            }
            rows = interleave({name: partial(timed, work) for name, work in cases.items()}, repeats)
        limit, _, ours, theirs = rows.values()
        return Table(
            title="Ten-patch evaluation",
            rows=list(rows.values()),
            data_set=describe(data),
            operations="decode, ten 224×224 views, minus the mean image, network in float32, average, score; "
            f"recipe {RECIPE}, width {width:g}, batches of {batch * VIEWS} views; {CORES} processes",
            limit=limit.name,
            ours=ours.name,
            headlines=[
                ours.headline("ten-patch evaluation", {"of the network alone": [limit], "× the seed's way": [theirs]})
            ],
        )


def network_alone(forward: Callable[[torch.Tensor], torch.Tensor], images: int, batch: int) -> int:
    """A forward function on normalized views, the same for each batch."""
    views = torch.randn(batch * VIEWS, 3, CROP, CROP).mul_(60).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(images // batch):
            forward(views)
    return images // batch * batch


@functools.cache
def load_network(config: ModelConfig) -> AlexNet:
    """The network of this process."""
    return AlexNet(config, seed=0).eval()


def answers(config: ModelConfig, mean_image: np.ndarray, encoded: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The five best classes [n, 5] and the mean logits [n, classes] of n images, 256×256 JPEG files.

    mean_image: float [256, 256, 3].
    """
    mean = torch.from_numpy(mean_image.astype(np.float32)).permute(2, 0, 1)
    views = torch.vstack([ten_views(content, mean) for content in encoded])
    with torch.inference_mode():
        logits = load_network(config)(views).unflatten(0, (-1, 2 * len(CORNERS))).mean(dim=1)
    return logits.topk(min(5, logits.shape[1]), dim=1).indices.numpy(), logits.numpy()


def ten_views(content: bytes, mean: torch.Tensor) -> torch.Tensor:
    """float32 [10, 3, 224, 224] of one image, cut one by one."""
    with Image.open(io.BytesIO(content)) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    views = []
    for top, left in CORNERS:
        for mirrored in (True, False):
            view = (pixels - mean)[:, top : top + CROP, left : left + CROP]
            views.append(torch.flip(view, dims=(2,)) if mirrored else view)
    return torch.stack(views)
