"""The training step: what do the response norms and the loader cost? `python -m benchmarks step [--quick]`.

train.py's forward, backward and update with our response norms, with PyTorch's, with none, on one synthetic batch again
and again; the loader alone; and both together. Each case has its own process, so that peak memory is its own.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import data
from benchmarks.measure import MINIMUM_REPEATS, Repeat, Row, interleave, timed
from benchmarks.processes import FIRST_STEP, held, hold, own_process
from benchmarks.results import Table, in_words
from dali_pipelines import DataConfig
from model import AlexNet, ModelConfig
from sharding.options import CORES
from training.config import TrainConfig
from training.mesh import Mesh
from training.pairs import PairedLoader
from training.step import ParallelNetwork, set_up_torch
from training.trainer import make_loader, open_data

SETTINGS = {False: (1.0, 128, MINIMUM_REPEATS), True: (1 / 16, 8, 1)}  # width, batch, repeats
STEPS = 2  # of a repeat
CASES: dict[str, tuple[str | None, int]] = {  # `Stepping`'s norm and steps
    "our norms": ("ours", STEPS),
    "PyTorch's norms": ("pytorch", STEPS),
    "no norms": ("none", STEPS),
    "loader alone": (None, 0),
    "loader and step together": ("ours", 0),
}


def pytorch_norm(x: Tensor, alpha: float) -> Tensor:
    """The response norm across channels as PyTorch ships it, tower by tower."""
    towers = [F.local_response_norm(tower, 5, alpha, 0.75, 2.0) for tower in x.chunk(2, dim=1)]
    return torch.cat(towers, dim=1)


def replace_norms(net: AlexNet, norm: str) -> None:
    """Put other response norms, or none, into a network of the recipe `paper`, whose norms PyTorch has."""
    if norm == "none":
        net.norm1 = net.norm2 = nn.Identity()
    if norm == "pytorch":
        net.norm1 = net.norm2 = partial(pytorch_norm, alpha=5 * net.recipe.norm_scale)


def synthetic_batch(samples: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images float32 [samples, 3, 224, 224], channels-last, of standard deviation 60, labels and ids, on the device."""
    images = 60 * torch.randn(samples, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(samples, device=device)
    return images.contiguous(memory_format=torch.channels_last).to(device), numbers % 1000, numbers


def open_loader(config: TrainConfig, **options: Any) -> PairedLoader:
    """train.py's loader of training images, of one process; `options`: of `DataConfig`, beyond those of `config`."""
    shards, _ = open_data(config)
    data_config = DataConfig(recipe=config.recipe, batch_size=config.batch_size, **options)
    mesh = Mesh(device=torch.device(set_up_torch(config)))
    return make_loader(shards, data_config, mesh, shards.statistics, config.decode)


class Stepping:
    """Steps of training by `config`, on the GPU where there is one: `repeat` measures what `work` does once.

    norm: `ours`, `pytorch` or `none`; None for no network: batches are taken and dropped. steps: on one synthetic
    batch, the same again and again; 0 for an epoch of config.shards. options: of `open_loader`.
    """

    def __init__(self, config: TrainConfig, norm: str | None = "ours", steps: int = 0, **options: Any) -> None:
        device = torch.device(set_up_torch(config))
        self._steps, self._network = steps, None
        if steps:
            self._synthetic = synthetic_batch(config.batch_size, device)
        else:
            self._loader = open_loader(config, **options)
        if norm:
            model = ModelConfig(recipe=config.recipe, width=config.width)
            self._network = ParallelNetwork(model, config, Mesh(device=device))
            assert isinstance(self._network.net, AlexNet)
            replace_norms(self._network.net, norm)

    def repeat(self) -> Repeat:
        """Measures the work once; the loader's read-ahead begins after the clock."""
        return timed(self.work)

    def work(self) -> int:
        """The steps once; returns the images that were done."""
        images = 0
        for step, (pixels, labels, ids) in enumerate(self._batches()):
            if self._network:
                self._network.step(pixels, labels, ids, step=step, samples=len(labels))
            images += len(labels)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return images

    def _batches(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        if self._steps:
            return [self._synthetic] * self._steps
        return ((batch.images, batch.labels, batch.ids) for batch in self._loader.epoch(0))


def measure(config: TrainConfig, repeats: int) -> dict[str, Row]:
    """A row for each of `CASES`, which take turns."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(own_process(__name__, FIRST_STEP)) for name in CASES}
        for made in [processes[name].submit(hold, Stepping, config, *case) for name, case in CASES.items()]:
            made.result()
        return interleave({name: partial(held, process, "repeat") for name, process in processes.items()}, repeats)


def run(quick: bool) -> Table:
    """Measures all cases, and says what norms and loader cost by both clocks."""
    width, batch, repeats = SETTINGS[quick]
    with data.shards(batch * STEPS) as shards:
        sizes: dict[str, Any] = {"recipe": "paper", "width": width, "batch_size": batch, "threads": CORES}
        config = TrainConfig(shards=shards.path.parent, run_dir=Path(), **sizes)  # whose norms PyTorch has
        rows = measure(config, repeats)
        ours, theirs, without, loader, together = rows.values()
        ratios: dict[str, tuple[Row, list[Row]]] = {
            "ours to PyTorch's": (ours, [theirs]),
            "ours to none": (ours, [without]),
            "together to the slower of the two": (together, [ours, loader]),
        }
        slower = {"of the slower of the two alone": [ours, loader]}
        return Table(
            title=f"Training step, batch {batch}, width {width:g}",
            rows=list(rows.values()),
            data_set=data.describe(shards),
            operations="train.py's forward, backward and update in float32 with dropout, recipe paper, the response "
            f"norms as named; one synthetic batch of {batch}, {STEPS} times, or as many decoded and augmented; "
            f"{CORES} threads",
            headlines=[
                ours.headline("training steps", {"× the same with PyTorch's response norms": [theirs]}),
                together.headline("loader and training step together", slower, "seconds"),
            ],
            remarks=[
                f"{name}: {in_words(row.over(*others, clock='seconds'))} by wall time, "
                f"{in_words(row.over(*others))} by CPU time"
                for name, (row, others) in ratios.items()
            ],
        )
