"""The check of a GPU node, rehearsed whole on the CPU; what fails, hangs or differs is said and the others go on."""

import json
from pathlib import Path

import pytest

from benchmarks import data, gpu_check
from benchmarks.gpu_check import check, fastest, main, run_part
from benchmarks.gpu_parts import FULL_SIZE, GRADIENTS, PARTS, Finding, Node, environment, norms, pixels
from dali_pipelines import DataConfig
from training.config import TrainConfig

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("benchmarks")]  # one fork server for all of them


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(shards=tmp_path / "nowhere", raw=tmp_path / "nowhere")


def test_the_whole_check_runs_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    status = main(["--device", "cpu", "--out", str(tmp_path / "out")])
    document = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    parts = document["parts"]
    assert {name: part["state"] for name, part in parts.items()} == {part.__name__: "ok" for part in PARTS}, parts
    assert status == 0
    assert parts["resume"]["figures"] == {"weights": 0.0}
    assert parts["split"]["figures"]["losses of three steps"] < 1e-4
    assert list(parts["loading"]["figures"]) == ["cpu", "cpu, whole DALI graph", "raw shards"]
    assert list(parts["stepping"]["figures"]) == ["float32", "bfloat16"]
    assert list(parts["together"]["figures"]) == ["1 process", "2 processes in pairs"]
    assert document["fastest"].keys() == {"precision", "compile", "model_parallel"}
    page = (tmp_path / "out" / "gpu_check.md").read_text()
    assert page == capsys.readouterr().out
    assert len([line for line in page.splitlines() if "| ok |" in line]) == len(PARTS)
    assert "90 epochs" in page and "Fastest here: `train.py --precision=" in page


def test_a_part_that_fails_is_reported_and_the_next_one_runs(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "PARTS", (pixels, environment))
    findings = check(node, minutes=10)
    assert findings["pixels"].state == "failed" and "nowhere" in findings["pixels"].lines[0]
    assert findings["environment"].state == "ok" and findings["environment"].figures["dali"]


def test_a_part_that_takes_too_long_is_ended(node: Node) -> None:
    finding = run_part(norms, node, seconds=0.0)
    assert finding.state == "failed" and "no answer for 0 seconds" in finding.lines[0]


def test_parts_for_which_no_time_is_left_are_named(node: Node) -> None:
    findings = check(node, minutes=-1)
    assert [finding.state for finding in findings.values()] == ["left out"] * len(PARTS)


def test_a_difference_beyond_its_limit_or_not_a_number_differs() -> None:
    finding = Finding()
    finding.compare("close", 0.5, 1.0, "levels")
    assert (finding.state, finding.lines) == ("ok", ["close: 0.5 levels"])
    for difference in (2.0, float("nan")):
        far = Finding()
        far.compare("far", difference, 1.0, "levels")
        assert far.state == "differs"


def test_the_fastest_options_are_those_of_the_best_rates() -> None:
    figures = {
        "slow": {"images_per_second": 10.0, "options": {"precision": "float32", "compile": False}},
        "fast": {"images_per_second": 30.0, "options": {"precision": "bfloat16", "compile": True}},
    }
    rates = {"gpu, JPEG hardware": (9.0, {"decode": "gpu"}), "cpu": (5.0, {"decode": "cpu"}), "raw shards": (99.0, {})}
    loading = {name: {"images_per_second": rate, "options": options} for name, (rate, options) in rates.items()}
    findings = {"stepping": Finding(figures=figures), "loading": Finding(figures=loading)}
    assert fastest(findings) == {"precision": "bfloat16", "compile": True, "decode": "gpu"}


def test_no_gpu_is_told_with_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert main([]) == 1
    assert "--device cpu" in capsys.readouterr().err


def test_what_a_gpu_is_asked_for_are_options_of_training_and_loader(tmp_path: Path) -> None:
    node = Node(shards=tmp_path, raw=tmp_path, gpus=1, processes=1, **FULL_SIZE)
    for precision in node.precisions:
        TrainConfig(shards=tmp_path, run_dir=tmp_path, precision=precision)
        assert GRADIENTS[precision] < 1
    for decode, options in node.decoders.values():
        TrainConfig(shards=tmp_path, run_dir=tmp_path, decode=decode)
        DataConfig(**options)
