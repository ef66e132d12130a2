"""The step benchmark: its cases compute what they are compared for, its ratios are right, its processes answer."""

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import data, step
from benchmarks.data import shards
from benchmarks.step import STEPS, Stepping, measure, replace_norms
from model import AlexNet, ModelConfig
from sharding import ShardError
from training.config import TrainConfig

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("benchmarks")]  # one fork server for all of them


def small(shards: Path) -> TrainConfig:
    threads = torch.get_num_threads()
    return TrainConfig(shards=shards, run_dir=Path(), recipe="paper", width=1 / 24, batch_size=4, threads=threads)


def test_the_network_with_pytorchs_norms_is_the_same_and_without_is_not() -> None:
    images = 60 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    logits = {}
    for norm in ("ours", "pytorch", "none"):
        net = AlexNet(ModelConfig(recipe="paper", classes=5, width=1 / 24)).eval().double()
        for layer in (net.conv1, net.conv2):  # so large that the norms matter
            layer.weight.data.mul_(10)
        replace_norms(net, norm)
        with torch.no_grad():
            logits[norm] = net(images)
    torch.testing.assert_close(logits["ours"], logits["pytorch"], rtol=1e-10, atol=0)
    assert not torch.allclose(logits["ours"], logits["none"], rtol=1e-3, atol=0)


def test_a_repeat_counts_the_images_of_its_steps_or_of_an_epoch() -> None:
    assert Stepping(small(Path()), steps=3).repeat().images == 12
    with shards(10) as split:
        for norm in (None, "ours"):  # two batches of four; training drops the other two
            repeat = Stepping(small(split.path.parent), norm).repeat()
            assert repeat.images == 8 and repeat.seconds > 0


def test_the_norms_are_those_that_are_named() -> None:
    networks = [Stepping(small(Path()), norm, steps=1)._network for norm in ("ours", "pytorch", "none")]
    ours, theirs, none = (network.net.norm1 for network in networks if network is not None)
    assert theirs.func is step.pytorch_norm and isinstance(none, torch.nn.Identity)
    assert ours.func is not step.pytorch_norm


def test_a_case_that_fails_ends_the_benchmark_with_its_error() -> None:
    with pytest.raises(ShardError, match="/nowhere"):
        measure(small(Path("/nowhere")), repeats=1)


def test_quick_run_publishes_every_case_and_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    monkeypatch.setattr(step, "CORES", 1)  # threads that wait for each other are slow beside other tests
    step.run(quick=True).publish("step", True, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "step.json").read_text())
    repeats = {row["name"]: row["repeats"] for row in document["rows"]}
    names = ["our norms", "PyTorch's norms", "no norms", "loader alone", "loader and step together"]
    assert list(repeats) == names
    assert all(repeat["images"] == 8 * STEPS and repeat["peak_bytes"] > 1e8 for (repeat,) in repeats.values())
    ratios = ["ours to PyTorch's", "ours to none", "together to the slower of the two"]
    assert [remark.partition(":")[0] for remark in document["remarks"]] == ratios
    assert all(re.search(r": \d.* by wall time, \d.* by CPU time$", remark) for remark in document["remarks"])
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".md", ".png"}
