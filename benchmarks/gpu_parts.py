"""The parts of `gpu_check`: each answers one question about this node, with figures, in a process of its own.

Enters: a `Node`. Leaves: a `Finding`. On the CPU the same code compares the CPU with itself, in small sizes.
"""

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia import dali
from torch import Tensor

from benchmarks.measure import Row, interleave
from benchmarks.results import machine
from benchmarks.scaling import launch, layout_name, train_timed
from benchmarks.step import Stepping, open_loader, synthetic_batch
from model import ModelConfig
from model.checkpoint import load_checkpoint
from model.response_norm import missing_for_triton, response_norm, spatial_norm
from sharding.options import CORES
from training.config import TrainConfig
from training.mesh import Mesh, close_mesh
from training.step import ParallelNetwork, set_up_torch
from training.trainer import train

IMAGENET_IMAGES, EPOCHS = 1_281_167, 90
# The largest difference that is still rounding: in gray levels, or relative to the largest value.
PIXELS_SAME, PIXELS_MEAN, NORMS, LOSS, ROUGH_LOSS = 1e-2, 1.0, 1e-4, 1e-3, 0.1
GRADIENTS = {"float32": 1e-3, "tf32": 5e-2, "bfloat16": 0.5}
Decoders = dict[str, tuple[str, dict[str, Any]]]  # name → (--decode, options of `DataConfig`)
DECODERS: Decoders = {"cpu": ("cpu", {}), "cpu, whole DALI graph": ("cpu", {"fused": False})}
# How GPUs are measured; the defaults of `Node` take seconds on a CPU.
FULL_SIZE: dict[str, Any] = {"device": "cuda", "width": 1.0, "batch": 128, "steps": 12, "repeats": 5}
FULL_SIZE |= {"precisions": ("float32", "tf32", "bfloat16"), "compiled": (False, True)}
FULL_SIZE["decoders"] = {
    "cpu": ("cpu", {}),
    "gpu": ("gpu", {"hardware_decoder_load": 0}),
    "gpu, JPEG hardware": ("gpu", {"hardware_decoder_load": 1}),
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """What is checked: so many GPUs, or the CPU in sizes that take seconds. `options`: of train.py, the fastest so far.

    shards, raw: folders with train/. batch: images a step and process. repeats: of measuring each throughput.
    """

    shards: Path
    raw: Path
    gpus: int = 0
    device: str = "cpu"
    processes: int = 2
    width: float = 1 / 16
    batch: int = 4
    steps: int = 2
    repeats: int = 1
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    compiled: tuple[bool, ...] = (False,)
    decoders: Decoders = field(default_factory=lambda: DECODERS)
    options: dict[str, Any] = field(default_factory=dict)

    def config(self, **options: Any) -> TrainConfig:
        """train.py's options here, for one process; `options` beyond these or in their place."""
        sizes = {"width": self.width, "batch_size": self.batch, "threads": max(1, CORES // self.processes)}
        where = {"shards": self.shards, "run_dir": Path(), "device": self.device}
        return TrainConfig(**{**where, **sizes, **options})


@dataclass(kw_only=True)
class Finding:
    """What a part found. state: `ok`, `differs`, `failed` or `left out`; lines: sentences for the page."""

    state: str = "ok"
    lines: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def compare(self, name: str, difference: float, limit: float, unit: str) -> None:
        """Note a difference; beyond the limit the finding `differs`."""
        self.figures[name] = difference
        self.lines.append(f"{name}: {difference:.2g} {unit}" + f", more than {limit:g}" * (difference > limit))
        if not difference <= limit:
            self.state = "differs"

    def add_rate(self, row: Row, options: dict[str, Any], more: str = "") -> None:
        """Note a row's median rates; `options`: train.py's."""
        wall, cpu = float(np.median(row.rate("seconds"))), float(np.median(row.rate()))
        self.figures[row.name] = {"images_per_second": wall, "images_per_cpu_second": cpu, "options": options}
        self.lines.append(f"{row.name}: {wall:,.0f} images/s, {cpu:,.0f} per CPU-second{more}")


def environment(node: Node) -> Finding:
    """Driver, CUDA, DALI, what the compiler lacks, topology."""
    here: dict[str, Any] = {
        "machine": machine(),
        "torch_cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "dali": dali.__version__,
        "missing for --compile": " and ".join(missing_for_triton()) or "nothing",
    }
    lines = [f"{name}: {value}" for name, value in here.items() if name != "machine"]
    here["gpus"] = [torch.cuda.get_device_name(number) for number in range(node.gpus)]
    smi = shutil.which("nvidia-smi")
    queries = {"driver": "--query-gpu=name,driver_version,memory.total --format=csv", "topology": "topo -m"}
    for name, arguments in queries.items():
        ran = subprocess.run([smi, *arguments.split()], capture_output=True, text=True, check=False) if smi else None
        here[name] = (ran.stdout + ran.stderr).strip() if ran else "no nvidia-smi"
    return Finding(lines=lines, figures=here)


def pixels(node: Node) -> Finding:
    """Does each way to decode give the pixels of the CPU's loader?"""
    finding = Finding()
    reference = _first_images(node.config(recipe="paper", device="cpu"), {})
    for name, (decode, options) in node.decoders.items():
        here = _first_images(node.config(recipe="paper", decode=decode), options)
        gaps, exact = (here - reference).abs(), decode == "cpu"
        finding.compare(f"{name}, mean", float(gaps.mean()), PIXELS_SAME if exact else PIXELS_MEAN, "gray levels")
        finding.compare(f"{name}, largest", float(gaps.max()), PIXELS_SAME if exact else 255.0, "gray levels")
    return finding


def _first_images(config: TrainConfig, options: dict[str, Any]) -> Tensor:
    with closing(open_loader(config, **options)) as loader:
        return next(loader.epoch(0)).images.cpu().clone()


def norms(node: Node) -> Finding:
    """Are response norms and their gradients those of float64 on the CPU?"""
    finding = Finding()
    x = 60 * torch.randn(4, 96, 27, 27, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, norm in {"across channels": lambda x: response_norm(x, 2e-5, 2), "over pixels": spatial_norm}.items():
        exact, here = _with_gradient(norm, x), _with_gradient(norm, x.float().to(node.device))
        for what, one, other in zip(("", " (gradient)"), exact, here):
            finding.compare(name + what, float((one - other).abs().max() / one.abs().max()), NORMS, "of the largest")
    return finding


def _with_gradient(norm: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = norm(x)
    (gradient,) = torch.autograd.grad(y.sin().sum(), x)
    return y.detach().cpu().double(), gradient.cpu().double()


def step(node: Node) -> Finding:
    """Are loss and gradients of a training step those of the CPU in float32, dropout included?"""
    finding = Finding()
    loss, gradients = _first_step(node, "cpu", "float32")
    for precision in node.precisions:
        here, own = _first_step(node, node.device, precision)
        limit = LOSS if precision == "float32" else ROUGH_LOSS
        finding.compare(f"loss, {precision}", abs(here - loss) / loss, limit, "of it")
        gap = max(float((own[name] - g).norm() / g.norm().clamp_min(1e-12)) for name, g in gradients.items())
        finding.compare(f"gradients, {precision}", gap, GRADIENTS[precision], "of their norm, the worst layer's")
    return finding


def _first_step(node: Node, device: Any, precision: Any) -> tuple[float, dict[str, Tensor]]:
    n, config = min(node.batch, 16), node.config(device=device, precision=precision)
    set_up_torch(config)
    network = ParallelNetwork(ModelConfig(width=node.width), config, Mesh(device=torch.device(device)))
    totals = network.step(*synthetic_batch(n, network.mesh.device), step=0, samples=n)
    gradients = {name: p.grad.float().cpu() for name, p in network.net.named_parameters() if p.grad is not None}
    return float(totals[0]) / n, gradients


def loading(node: Node) -> Finding:
    """How many images a second does the loader of one process give, with its share of the cores?"""
    os.environ["LOCAL_WORLD_SIZE"] = str(node.processes)
    finding, ways = Finding(), node.decoders
    for name, (decode, options) in (*ways.items(), ("raw shards", ways["cpu"])):
        is_raw = name not in ways
        config = node.config(shards=node.raw if is_raw else node.shards, recipe="paper", decode=decode)
        chosen = {"decode": decode} if node.gpus and not is_raw else {}
        case = Stepping(config, norm=None, **options)
        finding.add_rate(interleave({name: case.repeat}, node.repeats)[name], chosen)
    return finding


def stepping(node: Node) -> Finding:
    """How fast is a training step on one synthetic batch, at each precision, compiled or not?"""
    finding = Finding()
    for compiled, precision in itertools.product(node.compiled, node.precisions):
        options: dict[str, Any] = {"precision": precision, "compile": compiled}
        name, case = precision + ", compiled" * compiled, Stepping(node.config(**options), steps=node.steps)
        finding.add_rate(interleave({name: case.repeat}, node.repeats)[name], options)
    finding.lines += [] if True in node.compiled else ["compiled: left out of the small run"]
    return finding


def together(node: Node) -> Finding:
    """How fast is training on the loader's batches, on one process and on all, unsplit and in pairs?"""
    finding, most = Finding(), node.processes
    layouts = {(1, 1), (most, 2 - most % 2)} | ({(most, 1)} if node.gpus else set())
    for processes, pair in sorted(layouts):
        options = {**node.options, "model_parallel": str(pair)}
        config = node.config(batch_size=node.batch * processes, **options)
        repeat = train_timed(processes, node.steps, config)
        wait, hours = (
            repeat.waited_seconds / repeat.seconds,
            IMAGENET_IMAGES / repeat.images * repeat.seconds / 3600,
        )
        finding.add_rate(
            Row(name=layout_name(processes, pair), repeats=[repeat]),
            options,
            f", {wait:.0%} of the time waiting for data; an epoch of ImageNet {hours:.2f} h, "
            f"{EPOCHS} epochs {EPOCHS * hours:.1f} h",
        )
    return finding


def split(node: Node) -> Finding:
    """Does a network split over two processes train as the unsplit one does?"""
    if node.gpus == 1:
        return Finding(state="left out", lines=["needs two GPUs"])
    finding = Finding()
    with tempfile.TemporaryDirectory() as name:
        unsplit, pair = (_train(node, Path(name) / str(processes), 3, processes) for processes in (1, 2))
    gap = max(abs(one - other) / one for one, other in zip(unsplit, pair, strict=True))
    finding.compare("losses of three steps", gap, LOSS, "of them")
    return finding


def resume(node: Node) -> Finding:
    """Does a run that stopped after two steps and went on end in the weights of one that did not stop?"""
    finding = Finding()
    with tempfile.TemporaryDirectory() as name:
        through, stopped = Path(name) / "through", Path(name) / "stopped"
        for folder, steps in ((through, 4), (stopped, 2), (stopped, 4)):
            _train(node, folder, steps)
        one, other = (load_checkpoint(folder / "checkpoints" / "last.pt")["model"] for folder in (through, stopped))
    gap = max(float((one[key].double() - other[key].double()).abs().max()) for key in one)
    finding.compare("weights", gap, 0.0, "apart")
    return finding


def _train(node: Node, folder: Path, steps: int, processes: int = 1) -> list[float]:
    """The losses of the first steps of the run in `folder`, by one network on one process or two; it goes on there."""
    sizes = {"width": 1 / 16, "batch_size": 8, "model_parallel": str(processes), "max_steps": steps}
    config = node.config(run_dir=folder, precision="float32", deterministic=True, **sizes)
    if processes == 1:
        train(config)
    else:
        launch(processes, _train_rank, config)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def _train_rank(config: TrainConfig) -> None:
    train(config)
    close_mesh()


PARTS = (environment, pixels, norms, step, loading, stepping, together, split, resume)
