"""The training step: what do the response norms and the loader cost? `python -m benchmarks step [--quick]`.

    norms      forward, backward and update with our response norms, with PyTorch's, with none; with
               the C library's handling of memory as it is, and with freed memory kept, as train.py has it
    together   the loader alone, the step alone on synthetic data, and the step on the loader's batches

Each case has its own process, so that peak memory is its own; the cases of a group take turns. The file's `ratios` hold
ours ÷ PyTorch's, ours ÷ none, and together ÷ the slower of loader and step, each from repeats made side by side: by
wall time (`images_per_second`) and by CPU time (`images_per_cpu_second`).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import data
from benchmarks.measure import MINIMUM_REPEATS, Clock, Repeat, Row, Spread, cores, interleave, timed
from benchmarks.processes import FIRST_STEP, held, hold, own_process
from benchmarks.results import Table
from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import RecipeName
from model import AlexNet, ModelConfig
from sharding import ShardSet
from training.config import TrainConfig
from training.mesh import Mesh
from training.step import ParallelNetwork, keep_freed_memory

SETTINGS = {False: (1.0, 128, 2, MINIMUM_REPEATS), True: (1 / 16, 8, 2, 1)}  # width, batch, batches together, repeats
CLOCKS: tuple[Clock, ...] = ("images_per_second", "images_per_cpu_second")
RECIPE: RecipeName = "paper"  # its norms are those that PyTorch has; a second recipe would double the time


@dataclass(frozen=True, kw_only=True)
class SteppingJob:
    """What one repeat does: `steps` training steps, or one epoch of `shards`, or the loader's part of it alone.

    norm: `ours`, `pytorch` or `none`. shards: where batches come from; None for one synthetic batch, the same again and
    again. network: False to take the batches and drop them. keep_memory: as train.py does; False for the C library's
    default. options: of `TrainConfig`.
    """

    recipe: RecipeName = "original"
    norm: str = "ours"
    width: float = 1.0
    batch: int = 128
    steps: int = 1
    shards: Path | None = None
    network: bool = True
    keep_memory: bool = True
    threads: int = 2
    options: dict[str, Any] = field(default_factory=dict)


class PyTorchNorm(nn.Module):
    """The response norm across channels as PyTorch ships it, tower by tower."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.alpha = 5 * scale

    def forward(self, x: Tensor) -> Tensor:
        towers = [F.local_response_norm(tower, 5, self.alpha, 0.75, 2.0) for tower in x.chunk(2, dim=1)]
        return torch.cat(towers, dim=1)


def replace_norms(net: AlexNet, norm: str) -> None:
    """Put other response norms, or none, into a network of the recipe `paper`, whose norms PyTorch has."""
    if norm == "none":
        net.norm1, net.norm2 = nn.Identity(), nn.Identity()
    if norm == "pytorch":
        net.norm1, net.norm2 = PyTorchNorm(net.recipe.norm_scale), PyTorchNorm(net.recipe.norm_scale)


class Stepping:
    """The network and the batches of a job, on the GPU where there is one."""

    def __init__(self, job: SteppingJob) -> None:
        torch.set_num_threads(job.threads)
        if job.keep_memory:
            keep_freed_memory()
        self._job = job
        self._device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self._loader, classes = None, 1000
        if job.shards:
            shards = ShardSet.open(job.shards)
            classes = len(shards.classes)
            settings = DataConfig(recipe=job.recipe, batch_size=job.batch, device=str(self._device))
            self._loader = Loader(shards, settings)
        else:
            images = 60 * torch.randn(job.batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
            numbers = torch.arange(job.batch)
            batch = (images.contiguous(memory_format=torch.channels_last), numbers % classes, numbers)
            self._synthetic = tuple(part.to(self._device) for part in batch)
        if job.network:
            config = TrainConfig(shards=Path(), run_dir=Path(), recipe=job.recipe, width=job.width, **job.options)
            model = ModelConfig(recipe=job.recipe, classes=classes, width=job.width)
            self._network = ParallelNetwork(model, config, Mesh(device=self._device))
            assert isinstance(self._network.net, AlexNet)
            replace_norms(self._network.net, job.norm)

    def repeat(self) -> Repeat:
        """Measures the job once; the loader's read-ahead begins after the clock."""
        return timed(self.work)

    def work(self) -> int:
        """The job once; returns the images that were done."""
        images = 0
        for step, (pixels, labels, ids) in enumerate(self._batches()):
            if self._job.network:
                self._network.step(pixels, labels, ids, step=step, samples=len(labels))
            images += len(labels)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return images

    def _batches(self) -> Iterator[tuple[Tensor, ...]]:
        if self._loader is None:
            yield from [self._synthetic] * self._job.steps
            return
        for batch in self._loader.epoch(0):
            yield batch.images, batch.labels.to(self._device), batch.ids.to(self._device)


def measure(cases: dict[str, SteppingJob], repeats: int) -> dict[str, Row]:
    """Rows, by name, of cases that take turns."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(own_process(__name__, FIRST_STEP)) for name in cases}
        for made in [processes[name].submit(hold, Stepping, job) for name, job in cases.items()]:
            made.result()
        return interleave({name: partial(held, process, "repeat") for name, process in processes.items()}, repeats)


def ratio(row: Row, *others: Row) -> list[Spread]:
    """Of a row's rate to the lowest of the others', round by round, on both clocks."""
    return [row.rate(clock).over(*(other.rate(clock) for other in others)) for clock in CLOCKS]


def run(quick: bool) -> Table:
    """Measure both groups."""
    width, batch, batches, repeats = SETTINGS[quick]
    base = SteppingJob(recipe=RECIPE, width=width, batch=batch, threads=cores())
    with data.shards(batch * batches) as shards:
        loading = replace(base, shards=shards.path)
        group = {"loader alone": replace(loading, network=False), "step alone": replace(base, steps=batches)}
        rows = measure(norm_cases(base), repeats)
        rows |= measure(group | {"loader and step together": loading}, repeats)
        ours, theirs, without, kept, *alone, together = rows.values()
        ratios = {
            "ours to PyTorch's": ratio(ours, theirs),
            "ours to none": ratio(ours, without),
            "memory kept to not": ratio(kept, ours),
            "together to the slower of the two": ratio(together, *alone),
        }
        slower = {"of the slower of the two alone": alone}
        return Table(
            title=f"Training step, batch {batch}, width {width:g}",
            rows=list(rows.values()),
            data_set=data.describe(shards),
            operations=f"train.py's forward, backward and update in float32 with dropout, recipe {RECIPE}, the "
            f"response norms as named; one synthetic batch of {batch}, or an epoch of {batches} batches decoded and "
            f"augmented; {base.threads} threads",
            headlines=[
                ours.headline("training steps", {"× the same with PyTorch's response norms": [theirs]}),
                together.headline("loader and training step together", slower, "images_per_second"),
            ],
            remarks=[f"{name}: {wall} by wall time, {cpu} by CPU time" for name, (wall, cpu) in ratios.items()],
            extra={"ratios": {name: dict(zip(CLOCKS, map(asdict, both))) for name, both in ratios.items()}},
        )


def norm_cases(job: SteppingJob) -> dict[str, SteppingJob]:
    """Our response norms, PyTorch's and none, with the C library's memory; and ours with freed memory kept."""
    norms = {"our norms": "ours", "PyTorch's norms": "pytorch", "no norms": "none"}
    cases = {name: replace(job, norm=norm, keep_memory=False) for name, norm in norms.items()}
    return cases | {"our norms, memory kept": job}
