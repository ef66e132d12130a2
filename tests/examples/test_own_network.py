"""The examples: what their networks are given in each step is the loader's batch, on one rank, on two, after a stop.

Gone on with, or run by two processes, each is the run that never stopped.
"""

import functools
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dali_pipelines import DataConfig, Loader
from sharding import ShardSet
from tests.handmade import pack_splits

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STEPS = 4  # of an epoch: 20 images, five in a batch
KILLED = 9
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 training images in 3 classes."""
    return pack_splits(tmp_path_factory.mktemp("own"), classes=3, train=20, val=3, encoding="jpeg")


@dataclass
class Ran:
    """What a run printed, as (epoch, step, loss), and what each rank's network was given, a dictionary a step."""

    lines: list[tuple[int, int, float]]
    given: list[list[dict[str, object]]]


@pytest.fixture
def run(python: Path, shards: Path) -> Callable[..., Ran]:
    return functools.partial(run_example, python, shards)


def run_example(
    python: Path,
    shards: Path,
    out: Path,
    epochs: int,
    *launch: str,
    example: str = "own_network.py",
    killed_after: int = -1,
) -> Ran:
    recorded = out.parent / f"{out.name}-given"
    recorded.mkdir(exist_ok=True)
    command = [str(python), *launch, str(ROOT / "tests/examples/recorded.py"), str(recorded), str(killed_after)]
    command += [str(ROOT / "examples" / example), "--shards", str(shards)]
    command += ["--out", str(out), "--epochs", str(epochs), "--batch-size", "5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    environment["PYTHON_EXEC"] = str(python)  # what torchrun runs
    job = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert job.returncode == (0 if killed_after < 0 else KILLED), job.stderr
    lines = re.findall(rf"epoch (\d+), step (\d+) of {STEPS}: loss ([\d.]+)", job.stdout)
    given = []
    for file in sorted(recorded.iterdir()):
        given.append([json.loads(line) for line in file.read_text().splitlines()])
        file.unlink()
    return Ran([(int(epoch), int(step), float(loss)) for epoch, step, loss in lines], given)


def batches(shards: Path, world: int) -> list[list[dict[str, object]]]:
    """What the loader delivers to each rank in the first two epochs, as `Ran.given`."""
    delivered = []
    config = DataConfig(recipe="paper", batch_size=5, normalize="imagenet")
    with ShardSet.open(shards / "train") as split:
        for rank in range(world):
            steps = []
            with Loader(split, config, rank, world) as loader:
                for epoch in (0, 1):
                    for batch in loader.epoch(epoch):
                        pixels = batch.images.permute(0, 2, 3, 1).numpy().tobytes()
                        labels = split.labels(batch.ids.numpy()).tolist()
                        steps.append({"images": hashlib.sha256(pixels).hexdigest(), "labels": labels})
            delivered.append(steps)
    assert len({step["images"] for steps in delivered for step in steps}) == 2 * STEPS * world  # all differ
    return delivered


def networks(*files: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(file, weights_only=True)["network"] for file in files]


def test_a_start_after_any_stop_goes_on_with_the_next_batch_and_the_same_bits(
    run: Callable[..., Ran], shards: Path, tmp_path: Path
) -> None:
    """Stopped behind an epoch, and killed in the middle of the next one."""
    (expected,) = batches(shards, 1)
    uncut = run(tmp_path / "uncut.pt", 2)
    assert uncut.given == [expected]
    assert [line[:2] for line in uncut.lines] == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3, 4)]
    parts = [
        run(tmp_path / "cut.pt", 1),
        run(tmp_path / "cut.pt", 2, killed_after=1),
        run(tmp_path / "cut.pt", 2),
    ]
    assert [part.given for part in parts] == [[expected[:4]], [expected[4:5]], [expected[5:]]]
    assert parts[0].lines + parts[2].lines == uncut.lines[:4] + uncut.lines[5:]  # the killed one's print was buffered
    one, other = networks(tmp_path / "uncut.pt", tmp_path / "cut.pt")
    assert len(one) == 18 and all(torch.equal(one[name], other[name]) for name in one)


def test_two_ranks_under_torchrun_train_the_same_network(run: Callable[..., Ran], shards: Path, tmp_path: Path) -> None:
    """Their parts of a batch of five differ by one image; what they learn is what one process learns."""
    expected = batches(shards, 2)
    run(tmp_path / "one.pt", 1)
    two = run(tmp_path / "two.pt", 1, *TORCHRUN)
    assert two.given == [steps[:STEPS] for steps in expected] and len(two.lines) == STEPS
    one_network, two_network = networks(tmp_path / "one.pt", tmp_path / "two.pt")
    for name, weight in one_network.items():
        torch.testing.assert_close(two_network[name], weight, rtol=0, atol=1e-4)  # a wrong share would show as 1e-2
    assert run(tmp_path / "one.pt", 2, *TORCHRUN).given == [steps[STEPS:] for steps in expected]


@pytest.mark.parametrize("launch", [(), TORCHRUN], ids=["one process", "two"])
def test_accelerate_is_given_the_same_batches_and_goes_on(
    run: Callable[..., Ran], shards: Path, tmp_path: Path, launch: tuple[str, ...]
) -> None:
    """A second start goes on with the next epoch; the losses, too, are those of the plain loop."""
    pytest.importorskip("accelerate", reason="accelerate is not installed (an example's own dependency)")
    expected = batches(shards, 2 if launch else 1)
    plain = run(tmp_path / "plain.pt", 2, *launch)
    for epochs, part in ((1, slice(0, STEPS)), (2, slice(STEPS, 2 * STEPS))):
        ran = run(tmp_path / "out", epochs, *launch, example="with_accelerate.py")
        assert ran.given == [steps[part] for steps in expected]
        assert ran.lines == plain.lines[part]
