"""The step benchmark: its cases compute what they are compared for, its ratios are right, its processes answer."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import data, step
from benchmarks.data import shards
from benchmarks.measure import Row, Spread
from benchmarks.step import Stepping, SteppingJob, measure, norm_cases, ratio, replace_norms
from model import AlexNet, ModelConfig
from sharding import ShardError

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("benchmarks")]  # one fork server for all of them

SMALL = SteppingJob(width=1 / 24, batch=4, threads=torch.get_num_threads())


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


def test_ratios_are_to_the_slowest_of_the_others_on_both_clocks() -> None:
    def row(wall: float, cpu: float) -> Row:
        return Row(name="", images_per_second=Spread.of([wall]), images_per_cpu_second=Spread.of([cpu]))

    ratios = ratio(row(10, 5), row(40, 40), row(20, 50))
    assert [spread.median for spread in ratios] == [0.5, 0.125]


def test_cases_differ_by_norms_and_memory() -> None:
    cases = norm_cases(SteppingJob(recipe="paper", threads=4))
    assert {name: (job.norm, job.keep_memory) for name, job in cases.items()} == {
        "our norms": ("ours", False),
        "PyTorch's norms": ("pytorch", False),
        "no norms": ("none", False),
        "our norms, memory kept": ("ours", True),
    }


def test_a_repeat_counts_the_images_of_its_steps_or_of_an_epoch() -> None:
    assert Stepping(dataclasses.replace(SMALL, steps=3)).repeat().images == 12
    with shards(10) as split:
        for network in (False, True):  # two batches of four; training drops the other two
            repeat = Stepping(dataclasses.replace(SMALL, shards=split.path, network=network)).repeat()
            assert repeat.images == 8 and repeat.seconds > 0


def test_a_case_that_fails_ends_the_benchmark_with_its_error() -> None:
    with pytest.raises(ShardError, match="/nowhere"):
        measure({"broken": dataclasses.replace(SMALL, shards=Path("/nowhere"))}, repeats=1)


def test_quick_run_publishes_every_case_and_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    monkeypatch.setattr(step, "cores", lambda: 1)  # threads that wait for each other are slow beside other tests
    step.run(quick=True).publish("step", True, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "step.json").read_text())
    images = {row["name"]: row["images"] for row in document["rows"]}
    norms = ["our norms", "PyTorch's norms", "no norms", "our norms, memory kept"]
    together = ["loader alone", "step alone", "loader and step together"]
    assert images == dict.fromkeys(norms, 8) | dict.fromkeys(together, 16)
    assert all(row["images_per_second"]["median"] > 0 and row["peak_bytes"] > 1e8 for row in document["rows"])
    names = ["ours to PyTorch's", "ours to none", "memory kept to not", "together to the slower of the two"]
    assert list(document["ratios"]) == names
    assert all(ratio["images_per_cpu_second"]["median"] > 0 for ratio in document["ratios"].values())
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".md", ".png"}
