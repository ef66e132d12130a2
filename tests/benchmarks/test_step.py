"""The step benchmark: its cases compute what they are compared for, its ratios are right, its processes answer."""

import json
import multiprocessing
import threading
from pathlib import Path

import pytest
import torch

from benchmarks import data, step
from benchmarks.data import shards
from benchmarks.measure import Repeat
from benchmarks.step import Workers, measure, norm_cases, ratio
from benchmarks.step_worker import Job, replace_norms, serve
from model import AlexNet, ModelConfig


def repeat(images: int, seconds: float, cpu_seconds: float) -> Repeat:
    return Repeat(images=images, seconds=seconds, cpu_seconds=cpu_seconds)


@pytest.mark.parametrize("recipe", ["paper", "original"])
def test_the_network_with_pytorchs_norms_is_the_same_and_without_is_not(recipe: str) -> None:
    images = 60 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    logits = {}
    for norm in ("ours", "pytorch", "none"):
        net = AlexNet(ModelConfig(recipe=recipe, classes=5, width=1 / 24)).eval().double()
        for layer in (net.conv1, net.conv2):  # so large that the norms matter
            layer.weight.data.mul_(10)
        replace_norms(net, norm)
        with torch.no_grad():
            logits[norm] = net(images)
    torch.testing.assert_close(logits["ours"], logits["pytorch"], rtol=1e-10, atol=0)
    assert not torch.allclose(logits["ours"], logits["none"], rtol=1e-3, atol=0)


def test_ratios_are_to_the_slowest_of_the_others_round_by_round() -> None:
    ours = [repeat(10, 1.0, 2.0), repeat(10, 2.0, 2.0), repeat(10, 4.0, 2.0)]  # 10, 5, 2.5 images/s; 5 a CPU-second
    fast = [repeat(40, 1.0, 1.0)] * 3
    slow = [repeat(20, 1.0, 4.0), repeat(20, 2.0, 2.0), repeat(20, 4.0, 1.0)]  # 20, 10, 5; 5, 10, 20
    found = ratio(ours, [fast, slow])
    assert (found["seconds"].low, found["seconds"].median, found["seconds"].high) == (0.5, 0.5, 0.5)
    assert (found["cpu_seconds"].low, found["cpu_seconds"].median, found["cpu_seconds"].high) == (0.25, 0.5, 1.0)


def test_a_split_case_has_two_ranks_that_share_the_threads() -> None:
    cases = norm_cases(Job(recipe="paper", threads=4), Path("meeting"))
    assert {name: [(job.norm, job.keep_memory) for job in jobs] for name, jobs in cases.items()} == {
        "our norms": [("ours", False)],
        "PyTorch's norms": [("pytorch", False)],
        "no norms": [("none", False)],
        "our norms, memory kept": [("ours", True)],
        "split in two": [("ours", True), ("ours", True)],
    }
    assert [(job.rank, job.threads) for job in cases["split in two"]] == [(0, 2), (1, 2)]


def serve_once(job: Job) -> Repeat:
    """A repeat of a job served by a thread of this process."""
    here, there = multiprocessing.Pipe()
    thread = threading.Thread(target=serve, args=(job, there))
    thread.start()
    try:
        assert here.recv() is None
        here.send(True)
        return here.recv()
    finally:
        here.send(False)
        thread.join()


def test_a_worker_counts_the_images_of_its_steps_or_of_an_epoch() -> None:
    small = {"width": 1 / 24, "batch": 4, "threads": torch.get_num_threads()}
    assert serve_once(Job(steps=3, **small)).images == 12
    with shards(10) as data:
        for network in (False, True):  # two batches of four; training drops the rest
            found = serve_once(Job(shards=data.path, network=network, **small))
            assert found.images == 8
            assert found.seconds > 0


def test_processes_take_turns_and_a_split_case_adds_up(tmp_path: Path) -> None:
    tower = {"width": 1 / 24, "batch": 4, "threads": 1, "meeting": tmp_path / "meeting"}
    rows, repeats = measure({"split": [Job(rank=rank, **tower) for rank in (0, 1)]}, repeats=1)
    assert [(row.name, row.repeats, row.images) for row in rows] == [("split", 1, 4)]
    assert len(repeats["split"]) == 1
    assert rows[0].peak_bytes > 2 * 100e6  # of both


def test_a_process_that_dies_is_named() -> None:
    workers = Workers("broken", [Job(shards=Path("/nowhere"))])
    try:
        with pytest.raises(ChildProcessError, match="case 'broken': its process ended with 1"):
            workers.await_ready()
    finally:
        workers.close()


def test_quick_run_publishes_every_case_and_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    monkeypatch.setattr(multiprocessing, "set_forkserver_preload", lambda modules: None)  # tests share one server
    step.run(quick=True, out=tmp_path / "out")
    document = json.loads((tmp_path / "out" / "step.json").read_text())
    images = {row["name"]: row["images"] for row in document["rows"]}
    norms = ["our norms", "PyTorch's norms", "no norms", "our norms, memory kept"]
    split = ["split in two"] if torch.cuda.device_count() != 1 else []
    together = ["loader alone", "step alone", "loader and step together"]
    assert images == dict.fromkeys([*norms, *split], 16) | dict.fromkeys(together, 32)
    assert all(row["images_per_second"]["median"] > 0 and row["peak_bytes"] > 1e8 for row in document["rows"])
    names = ["ours to PyTorch's", "ours to none", "memory kept to not", *(["split to unsplit"] if split else [])]
    assert list(document["ratios"]) == [*names, "together to the slower of the two"]
    assert all(ratio["cpu_seconds"]["median"] > 0 for ratio in document["ratios"].values())
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".md", ".png"}
