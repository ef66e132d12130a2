"""The example of one's own network: gone on with, or run by two processes, it is the run that never stopped."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.handmade import pack_splits

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 training images in 3 classes."""
    return pack_splits(tmp_path_factory.mktemp("own"), classes=3, train=20, val=3, encoding="jpeg")


def run(
    shards: Path, out: Path, epochs: int, *launch: str, example: str = "own_network.py"
) -> list[tuple[int, int, float]]:
    """(epoch, step, loss) of each line that the example printed."""
    command = [sys.executable, *launch, str(ROOT / "examples" / example), "--shards", str(shards)]
    command += ["--out", str(out), "--epochs", str(epochs), "--batch-size", "5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    job = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert job.returncode == 0, job.stderr
    lines = re.findall(r"epoch (\d+), step (\d+) of 4: loss ([\d.]+)", job.stdout)
    return [(int(epoch), int(step), float(loss)) for epoch, step, loss in lines]


def test_a_second_start_goes_on_with_the_same_bits(shards: Path, tmp_path: Path) -> None:
    uncut = run(shards, tmp_path / "uncut.pt", 2)
    assert [line[:2] for line in uncut] == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3, 4)]
    assert run(shards, tmp_path / "cut.pt", 1) == uncut[:4]
    assert run(shards, tmp_path / "cut.pt", 2) == uncut[4:]
    one, other = (torch.load(tmp_path / name, weights_only=True)["network"] for name in ("uncut.pt", "cut.pt"))
    assert len(one) == 18 and all(torch.equal(one[name], other[name]) for name in one)


def test_two_ranks_under_torchrun_train_the_same_network(shards: Path, tmp_path: Path) -> None:
    """Their parts of a batch of five differ by one image; what they learn is what one process learns."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run(shards, tmp_path / "one.pt", 1)
    assert len(run(shards, tmp_path / "two.pt", 1, *launch)) == 4
    one, two = (torch.load(tmp_path / name, weights_only=True)["network"] for name in ("one.pt", "two.pt"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-4)  # a wrong share would show as 1e-2


def test_accelerate_trains_as_the_plain_loop_and_goes_on(shards: Path, tmp_path: Path) -> None:
    """The same batches, so the same losses; a second start goes on with the next epoch."""
    pytest.importorskip("accelerate", reason="accelerate is not installed (an example's own dependency)")
    expected = run(shards, tmp_path / "plain.pt", 2)
    for epochs, part in ((1, expected[:4]), (2, expected[4:])):
        assert run(shards, tmp_path / "out", epochs, example="with_accelerate.py") == part
