"""A run that is stopped and gone on with is the run that never stopped, bit by bit."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import load_checkpoint, save_checkpoint
from tests.handmade import pack_splits
from tests.training.conftest import STEPS_PER_EPOCH, Arguments
from tests.training.ranks import start, train, train_and_signal, train_in_float64
from train import main
from training.progress import Progress, Step

pytestmark = pytest.mark.slow

LAST = "checkpoints/last.pt"


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def learned(run: Path) -> list[tuple[Any, ...]]:
    """What the metrics say of the computation, without speeds."""
    return [
        (
            line["step"],
            line["epoch"],
            line.get("loss"),
            line.get("top1_error"),
            line.get("top5_error"),
            line.get("rate"),
            line.get("validation"),
        )
        for line in lines(run)
    ]


def assert_same_state(one: Path, other: Path) -> None:
    """The checkpoints hold the same bits: weights, velocities, schedule and state."""
    first, second = load_checkpoint(one), load_checkpoint(other)
    compared = 0
    for part in ("model", "optimizer"):
        assert first[part].keys() == second[part].keys()
        for name, tensor in first[part].items():
            assert torch.equal(tensor, second[part][name]), f"{part} {name}"
            compared += 1
    assert compared == 32
    assert all(first[name] == second[name] for name in ("step", "epoch", "best", "schedule", "model_config"))


@pytest.fixture(scope="module")
def uncut_run(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that never stopped."""
    run = tmp_path_factory.mktemp("uncut_run") / "run"
    torch.set_num_threads(1)
    assert main(arguments(run)) == 0
    return run


def test_run_stopped_after_every_step_ends_in_the_same_bits(
    uncut_run: Path, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, starts = tmp_path / "run", 0
    add = Progress.add

    def add_and_stop(self: Progress, step: Step) -> None:
        add(self, step)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Progress, "add", add_and_stop)
    steps = []
    while not steps or steps[-1] < 2 * STEPS_PER_EPOCH:
        assert main(arguments(run)) == 0
        steps.append(load_checkpoint(run / LAST)["step"])
        starts += 1
        assert starts <= 20
    assert steps[:4] == [1, 2, 3, 4]
    main(arguments(run))
    assert_same_state(uncut_run / LAST, run / LAST)
    assert learned(run) == learned(uncut_run)
    assert [line["step"] for line in lines(run) if "loss" in line] == list(range(1, 2 * STEPS_PER_EPOCH + 1))


@pytest.mark.parametrize(("world", "model_parallel"), [(2, "2"), (4, "1")])
def test_ranks_stopped_by_a_signal_to_one_of_them_end_in_the_same_bits(
    world: int, model_parallel: str, arguments: Arguments, tmp_path: Path
) -> None:
    """All save at one agreed step, exit with 0, and say how to go on; resumed, the run is the one never stopped."""
    options = ("--model-parallel", model_parallel)
    uncut = start(tmp_path / "uncut", world, train, arguments(tmp_path / "uncut", *options))
    stopped = start(
        tmp_path / "cut", world, train_and_signal, arguments(tmp_path / "cut", *options), world - 1, 3, signal.SIGUSR1
    )
    assert stopped.wait() == [0] * world, stopped.text()
    assert "the same command goes on from there" in stopped.text().splitlines()[-1]
    assert load_checkpoint(tmp_path / "cut" / LAST)["step"] == 3
    assert json.loads((tmp_path / "cut" / "stopped").read_text())["step"] == 3
    resumed = start(tmp_path / "on", world, train, arguments(tmp_path / "cut", *options))
    assert resumed.wait() == [0] * world, resumed.text()
    assert uncut.wait() == [0] * world, uncut.text()
    assert_same_state(tmp_path / "uncut" / LAST, tmp_path / "cut" / LAST)
    assert learned(tmp_path / "cut") == learned(tmp_path / "uncut")
    assert not (tmp_path / "cut" / "stopped").exists()


def test_other_ranks_go_on_with_the_same_batches(arguments: Arguments, tmp_path: Path) -> None:
    """Four ranks as two split pairs begin, three data ranks end: the losses are those of one process.

    In float64, since in float32 a rounding can move a maximum to the next pixel; recipe paper, whose standardized
    pixels have no rounding in them.
    """
    one, many = tmp_path / "one", tmp_path / "many"
    options = ("--recipe", "paper")
    alone = start(tmp_path / "1", 1, train_in_float64, arguments(one, *options))
    pairs = start(tmp_path / "4", 4, train_in_float64, arguments(many, *options, "--max-steps", "6"))
    assert pairs.wait() == [0] * 4, pairs.text()
    three = start(tmp_path / "3", 3, train_in_float64, arguments(many, *options))
    assert three.wait() == [0] * 3, three.text()
    assert alone.wait() == [0], alone.text()
    ours, expected = lines(many), lines(one)
    assert len(ours) == len(expected) == 2 * (STEPS_PER_EPOCH + 1)
    for line, other in zip(ours, expected):
        values, others = line.get("validation", line), other.get("validation", other)
        assert values["loss"] == pytest.approx(others["loss"], rel=1e-9)
        assert values["top1_error"] == others["top1_error"]
        assert values.get("images") == others.get("images")
        assert values["top5_error"] == others["top5_error"]
        assert (line["step"], line["epoch"], line.get("rate")) == (other["step"], other["epoch"], other.get("rate"))


def test_killed_run_loses_only_what_came_after_its_checkpoint(
    uncut_run: Path, arguments: Arguments, tmp_path: Path
) -> None:
    """--checkpoint-minutes 0 saves before each step: of a run killed in step 8, step 7 is there."""
    run = tmp_path / "run"
    killed = start(tmp_path, 1, train_and_signal, arguments(run, "--checkpoint-minutes", "0"), 0, 8, signal.SIGKILL)
    assert killed.wait() == [-signal.SIGKILL]
    assert load_checkpoint(run / LAST)["step"] == 7
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 8, "epoch": 1, "loss": 1.0}\n{"step": 9, "ep')  # as a kill leaves them
    assert main(arguments(run)) == 0
    assert_same_state(uncut_run / LAST, run / LAST)
    assert learned(run) == learned(uncut_run)


def kill_before_last(arguments: list[str]) -> int:
    """A training that is killed where the first epoch's checkpoint has its other names, and is to become last.pt."""
    rename = Path.replace

    def kill(self: Path, target: Path) -> Path:
        if Path(target).name == "last.pt" and Path(target).with_name("best.pt").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = kill  # type: ignore[method-assign]
    return train(arguments)


@pytest.mark.parametrize("minutes", ["0", "10"])
def test_best_is_never_behind_last_after_a_kill(
    minutes: str, uncut_run: Path, arguments: Arguments, tmp_path: Path
) -> None:
    """Killed between the two, the run has the best.pt of the new state, and last.pt at most that of the one before."""
    run = tmp_path / "run"
    killed = start(tmp_path, 1, kill_before_last, arguments(run, "--checkpoint-minutes", minutes))
    assert killed.wait() == [-signal.SIGKILL]
    best = run / "checkpoints" / "best.pt"
    assert load_checkpoint(best)["step"] == STEPS_PER_EPOCH
    assert (run / LAST).exists() == (minutes == "0")
    shutil.copyfile(best, tmp_path / "before.pt")
    assert main(arguments(run, "--checkpoint-minutes", "0", "--max-steps", "5")) == 0
    assert_same_state(tmp_path / "before.pt", best)
    assert main(arguments(run)) == 0
    assert_same_state(uncut_run / LAST, run / LAST)
    assert_same_state(uncut_run / "checkpoints" / "best.pt", best)
    assert learned(run) == learned(uncut_run)
    assert not list(run.rglob("*.part"))


def test_last_checkpoint_that_another_takes_the_place_of_is_kept(
    uncut_run: Path, arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--resume-from an older one keeps the newer last.pt as replaced.pt, and --resume-from that brings it back."""
    run = tmp_path / "run"
    assert main(arguments(run, "--max-steps", "6")) == 0
    last, replaced = run / LAST, run / "checkpoints" / "replaced.pt"
    newest, older = last.read_bytes(), (run / "checkpoints" / "previous.pt").read_bytes()
    for source, expected in (("previous.pt", newest), ("replaced.pt", older)):
        options = ("--resume-from", str(run / "checkpoints" / source), "--max-steps", "1")
        source_bytes = (run / "checkpoints" / source).read_bytes()
        assert main(arguments(run, *options, "--checkpoint-minutes", "100")) == 0
        assert replaced.read_bytes() == expected
        assert load_checkpoint(last)["step"] == (5 if source_bytes == older else 6)
        last.write_bytes(source_bytes)
    capsys.readouterr()


def test_other_recipe_or_data_is_refused_with_the_difference(
    uncut_run: Path, arguments: Arguments, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (uncut_run / LAST).read_bytes()
    changed = arguments(uncut_run, "--seed", "7", "--recipe", "paper")
    assert main(changed) == 1
    message = capsys.readouterr().err
    assert "--seed was 0, is 7" in message and "--recipe was original, is paper" in message
    other = pack_splits(tmp_path, classes=3, train=21, val=7, encoding="jpeg")
    assert (
        main(
            [
                *arguments(uncut_run),
                "--shards",
                str(other),
            ]
        )
        == 1
    )
    message = capsys.readouterr().err
    assert "20 images in 3 classes" in message and "now 21 in 3" in message
    assert (uncut_run / LAST).read_bytes() == before


def test_torn_checkpoint_is_named_and_the_previous_one_used_only_when_asked(
    arguments: Arguments, uncut_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(arguments(run, "--max-steps", "6")) == 0  # saved after the first epoch, and at the end
    last, previous = run / LAST, run / "checkpoints" / "previous.pt"
    assert load_checkpoint(previous)["step"] == STEPS_PER_EPOCH
    last.write_bytes(last.read_bytes()[:-500])
    assert main(arguments(run)) == 1
    message = capsys.readouterr().err
    assert str(last) in message and f"--resume-from {previous}" in message
    assert main(arguments(run, "--resume-from", str(previous), "--max-steps", "6")) == 0
    assert load_checkpoint(last)["step"] == 6
    assert load_checkpoint(previous)["step"] == STEPS_PER_EPOCH  # the torn file took nobody's place
    assert main(arguments(run)) == 0
    assert_same_state(uncut_run / LAST, last)
    assert learned(run) == learned(uncut_run)


def test_schedule_and_best_error_go_on_from_their_state(arguments: Arguments, tmp_path: Path) -> None:
    """Recipe paper, whose rate depends on what it has seen: two drops before the stop are two drops after it."""
    run = tmp_path / "run"
    assert main(arguments(run, "--recipe", "paper", "--max-steps", "5")) == 0
    state = load_checkpoint(run / LAST)
    assert state["schedule"]["drops"] == 0 and state["schedule"]["best"] == state["best"]
    schedule = state["schedule"] | {"drops": 2}
    save_checkpoint(run / LAST, state | {"schedule": schedule, "best": 0.0})
    assert (
        main(
            arguments(
                run,
                "--recipe",
                "paper",
            )
        )
        == 0
    )
    assert [line["rate"] for line in lines(run) if "rate" in line] == [0.01] * 5 + [0.0001] * 5
    after = load_checkpoint(run / LAST)
    assert after["schedule"]["drops"] == 2 and after["best"] == 0.0
    assert load_checkpoint(run / "checkpoints" / "best.pt")["step"] == 5
