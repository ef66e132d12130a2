"""A run's folder: metrics cut back, events, config."""

import gzip
import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.checkpoint import load_checkpoint
from tests.training.conftest import BATCH, IMAGES, STEPS_PER_EPOCH, VALIDATED, Arguments
from train import main
from training import checkpoints
from training.run_folder import RunFolder, cut_back


def step(number: int, epoch: int) -> str:
    return json.dumps({"step": number, "epoch": epoch, "loss": 1.0 / number})


def validation(number: int, epoch: int) -> str:
    return json.dumps({"step": number, "epoch": epoch, "validation": {"loss": 1.0}})


LINES = [step(1, 1), step(2, 1), validation(2, 1), step(3, 2), step(4, 2), validation(4, 2), '{"step": 5, "ep']


@pytest.mark.parametrize(
    ("at_step", "at_epoch", "lines"),
    [
        (0, 0, []),  # started anew
        (1, 0, LINES[:1]),
        (2, 0, LINES[:2]),  # the epoch's steps are done, its validation is not
        (2, 1, LINES[:3]),
        (3, 1, LINES[:4]),
        (4, 1, LINES[:5]),
        (4, 2, LINES[:6]),
        (9, 9, LINES[:6]),  # the torn line never stays
    ],
)
def test_metrics_are_cut_back_to_the_checkpoint(at_step: int, at_epoch: int, lines: list[str], tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("\n".join(LINES))
    cut_back(metrics, at_step, at_epoch)
    assert metrics.read_text() == "".join(line + "\n" for line in lines)


def test_events_hold_each_step_once_after_going_on(tmp_path: Path) -> None:
    for first, values in ((0, (5.0, 4.0, 3.0)), (1, (2.0, 1.0))):
        folder = RunFolder(tmp_path, first, 0)
        for number, loss in enumerate(values, start=first + 1):
            folder.log({"step": number, "epoch": 0, "loss": loss})
        folder.log({"step": 3, "epoch": 0, "validation": {"top1_error": loss / 10}})
        folder.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(item.step, item.value) for item in events.Scalars("train/loss")] == [(1, 5.0), (2, 2.0), (3, 1.0)]
    assert [(item.step, item.value) for item in events.Scalars("validation/top1_error")] == [(3, pytest.approx(0.1))]


def test_run_writes_config_metrics_events_and_checkpoints(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(arguments(run, "--log-every", "2", "--keep-every", "1", "--recipe", "paper")) == 0
    log = capsys.readouterr().err
    for expected in (
        "1 process on CPU, 1 threads",
        "AlexNet, recipe paper, width 0.0625, 225,515 parameters, 3 classes",
        f"{IMAGES} training images, batch {BATCH}: {STEPS_PER_EPOCH} steps an epoch; 10 of 10 steps to do",
        f"{VALIDATED} validation images",
        "epoch 1: validation loss",
        "epoch 2: validation loss",
        "step 10 of 10: epoch 2, loss ",
        "done after step 10",
    ):
        assert expected in log
    assert "images/s, data wait" in log and "loss" in log and "error" in log
    config = json.loads((run / "config.json").read_text())
    assert set(config) == {"train_config", "data_config", "model_config", "versions", "dataset"}
    assert {config[part]["recipe"] for part in ("train_config", "data_config", "model_config")} == {"paper"}
    assert config["dataset"]["samples"] == IMAGES and len(config["dataset"]["classes"]) == 3
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10]
    assert set(lines[0]) == {
        "step", "epoch", "loss", "top1_error", "top5_error", "rate", "images_per_second", "data_wait_fraction",
        "damaged_images",
        "memory_bytes",
    }  # fmt: skip
    assert lines[0]["damaged_images"] == 0
    assert lines[0]["rate"] == 0.01 and lines[0]["memory_bytes"] > 1e7 and 0 <= lines[0]["data_wait_fraction"] <= 1
    validated = [line["validation"] for line in lines if "validation" in line]
    assert len(validated) == 2
    assert all(set(item) == {"loss", "top1_error", "top5_error", "images"} for item in validated)
    assert all(item["images"] == VALIDATED for item in validated)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.pt", "epoch-0001.pt", "epoch-0002.pt", "last.pt", "previous.pt"]
    last = load_checkpoint(run / "checkpoints" / "last.pt")
    assert (last["epoch"], last["step"]) == (2, 10)
    assert last["best"] == min(item["top1_error"] for item in validated)
    best = load_checkpoint(run / "checkpoints" / "best.pt")
    assert validated[best["epoch"] - 1]["top1_error"] == last["best"]
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [item.step for item in events.Scalars("train/loss")] == [2, 4, 6, 8, 10]


def test_metrics_are_on_the_disk_before_a_checkpoint_says_that_their_steps_are_done(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    sync, save = RunFolder.sync, checkpoints.save_checkpoint
    monkeypatch.setattr(RunFolder, "sync", lambda self: (happened.append("sync"), sync(self)))
    monkeypatch.setattr(checkpoints, "save_checkpoint", lambda *all: (happened.append("save"), save(*all)))
    assert main(arguments(tmp_path / "run")) == 0
    assert happened == ["sync", "save"] * 2


def test_without_val_there_is_no_validation_and_a_line_says_so(
    arguments: Arguments, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "train").symlink_to(shards / "train")
    line = [*arguments(tmp_path / "run", "--max-steps", "5"), "--shards", str(tmp_path / "only")]
    assert main(line) == 0
    assert "no val/: no validation" in capsys.readouterr().err
    assert "validation" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()


def test_profile_is_a_trace_of_the_steps_asked_for(arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(arguments(run, "--profile", "2", "--max-steps", "8")) == 0
    with gzip.open(run / "profile" / "rank-0.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    names = {event["name"] for event in events}
    assert {name for name in names if name.startswith("ProfilerStep")} == {"ProfilerStep#5", "ProfilerStep#6"}
    threads = {name: {event.get("tid") for event in events if event["name"] == name} for name in names}
    assert threads["aten::convolution"].isdisjoint(threads["loader: decode"])
