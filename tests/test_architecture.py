"""ARCHITECTURE.md is true: its two roads are what a trace of the calls shows, and the tests that it names exist."""

import json
import re
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from tests.handmade import pack_splits
from tests.training.ranks import start, train

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
ROOMS = ("common", "sharding", "dali_pipelines", "model", "training", "train.py")
ON_THE_ROAD = ("sharding/", "dali_pipelines/", "training/pairs.py")  # every module of these that runs is in the list


def road(heading: str) -> list[str]:
    """`file:function` of each item of the list below the heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. `([\w/]+\.py:[\w.]+)`", section, re.MULTILINE)


def train_traced(arguments: list[str], trace: Path) -> int:
    """A training; `file:function` of our rooms, in the order of first calls by any thread, go to `trace`."""
    codes: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            codes.setdefault(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        return train(arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        called = [(Path(code.co_filename), code.co_qualname) for code in codes]
        ours = [(str(file.relative_to(ROOT)), name) for file, name in called if file.is_relative_to(ROOT)]
        trace.write_text(json.dumps([f"{file}:{name}" for file, name in ours if file.startswith(ROOMS)]))


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """The calls of a start with one step, and of the start that goes on from there."""
    folder = tmp_path_factory.mktemp("traced")
    shards = pack_splits(folder, classes=3, train=8, val=4, encoding="jpeg")
    options = ["--width", "0.0625", "--batch-size", "4", "--device", "cpu", "--threads", "1", "--epochs", "1"]
    calls = []
    for step in ("1", "2"):
        arguments = ["--shards", str(shards), "--run-dir", str(folder / "run"), *options, "--max-steps", step]
        ranks = start(folder / step, 1, train_traced, arguments, folder / f"{step}.json")
        assert ranks.wait() == [0], ranks.text()
        calls.append(json.loads((folder / f"{step}.json").read_text()))
    return calls[0], calls[1]


def assert_followed(listed: list[str], called: list[str]) -> None:
    """Every listed function is called, for the first time in the listed order."""
    missing = [call for call in listed if call not in called]
    assert not missing, f"never called: {missing}"
    order = sorted(listed, key=called.index)
    assert listed == order, "first called in this order:\n" + "\n".join(order)


@pytest.mark.slow
def test_the_road_of_a_sample_is_what_runs(traces: tuple[list[str], list[str]]) -> None:
    listed, called = road("The road of a sample"), traces[0]
    assert len(listed) >= 8
    assert_followed(listed, called)
    between = called[called.index(listed[0]) : called.index(listed[-1])]
    modules = {call.partition(":")[0] for call in between if call.startswith(ON_THE_ROAD)}
    helpers = {"dali_pipelines/config.py", "dali_pipelines/keyed.py", "dali_pipelines/graph.py"}
    assert modules - helpers <= {call.partition(":")[0] for call in listed}, "\n".join(between)


@pytest.mark.slow
def test_the_road_of_a_checkpoint_is_what_only_a_resume_calls(traces: tuple[list[str], list[str]]) -> None:
    listed = road("The road of a checkpoint")
    first, resumed = traces
    assert len(listed) >= 8
    assert_followed(listed, resumed)
    before_the_loop = resumed[: resumed.index("training/trainer.py:Trainer.run")]
    public = [call for call in before_the_loop if "<" not in call and not re.search(r"[:.]_[a-z]", call)]
    assert set(public) - set(first) <= set(listed), [call for call in public if call not in first]


def test_the_tests_that_hold_the_invariants_exist() -> None:
    names = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
    assert len(names) >= 15
    assert [name for name in names if not (ROOT / name).is_file()] == []
