"""The options: what is refused, how the command line maps to fields, what says which training it is."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

import model.alexnet
from common.command_line import parse_config
from tests.training.conftest import Arguments
from train import main
from training.config import NETWORK_ABLATIONS, TrainConfig

CONFIG = TrainConfig(shards=Path("shards"), run_dir=Path("run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "--batch-size is at least 1, got 0"),
        ({"epochs": 0}, "--epochs is at least 1, got 0"),
        ({"max_steps": 0}, "--max-steps is at least 1, got 0"),
        ({"accumulate": 0}, "--accumulate is at least 1, got 0"),
        ({"accumulate": 129}, r"--accumulate is at most --batch-size \(128\), got 129"),
        ({"window": 0}, "--window is at least 1, got 0"),
        ({"log_every": 0}, "--log-every is at least 1, got 0"),
        ({"threads": 0}, "--threads is at least 1, got 0"),
        ({"profile": 0}, "--profile is at least 1, got 0"),
        ({"seed": -1}, "--seed is at least 0, got -1"),
        ({"seed": 2**63}, f"--seed is at most {2**63 - 1}, got {2**63}"),
        ({"timeout_seconds": 1e300}, r"--timeout-seconds is at most 1000000.0, got 1e\+300"),
        ({"keep_every": -1}, "--keep-every is at least 0, got -1"),
        ({"checkpoint_minutes": -0.5}, "--checkpoint-minutes is at least 0, got -0.5"),
        ({"checkpoint_minutes": float("nan")}, "--checkpoint-minutes is at least 0, got nan"),
        ({"width": 0.0}, "--width is above 0, got 0.0"),
        ({"width": 1e30}, r"--width is at most 1000000000000.0, got 1e\+30"),
        ({"width": float("inf")}, "--width is at most 1000000000000.0, got inf"),
        ({"timeout_seconds": 0.0}, "--timeout-seconds is above 0, got 0.0"),
        ({"recipe": "seed"}, "--recipe is one of original, paper, got 'seed'"),
        ({"precision": "float16"}, "--precision is one of auto, float32, tf32, bfloat16, got 'float16'"),
        ({"model_parallel": "3"}, "--model-parallel is one of auto, 1, 2, got '3'"),
    ],
)
def test_values_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_each_field_is_an_option_of_the_command_line() -> None:
    given = {
        "shards": "data", "run_dir": "r", "recipe": "paper", "width": "0.5", "epochs": "7", "max_steps": "9",
        "batch_size": "32", "accumulate": "4", "seed": "3", "device": "cpu", "model_parallel": "2", "window": "5",
        "resume_from": "f.pt", "checkpoint_minutes": "2.5", "keep_every": "1", "log_every": "10",
        "precision": "bfloat16", "scale_rate": "sqrt", "augment": "off", "threads": "2", "timeout_seconds": "7.5",
        "plateau": "top5", "patience": "3", "decode": "cpu", "profile": "3",
    }  # fmt: skip
    line = [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)]
    config = parse_config(TrainConfig, [*line, "--compile", "--deterministic", "--quiet"], "train.py", "")
    others = {"compile", "deterministic", "quiet", "ablate", "schedule"}
    assert given.keys() | others == {item.name for item in fields(TrainConfig)}
    for name, text in given.items():
        value = getattr(config, name)
        assert str(value) == text and value != getattr(CONFIG, name), name
    assert config.compile is True and config.deterministic is True
    assert isinstance(config.shards, Path) and isinstance(config.width, float) and isinstance(config.window, int)
    assert parse_config(TrainConfig, ["--shards", "shards", "--run-dir", "run"], "train.py", "") == CONFIG
    more = ["--ablate", "norms", "crops", "--schedule", "second"]
    config = parse_config(TrainConfig, ["--shards", "shards", "--run-dir", "run", *more], "train.py", "")
    assert config == replace(CONFIG, ablate=("norms", "crops"), schedule="second")


@pytest.mark.parametrize(
    "more",
    [
        ["--batch-size", "0"],
        ["--batch-size", "many"],
        ["--no-such-option"],
        ["--seed", "9" * 20],
        ["--seed", "-1"],
        ["--recipe", "seed"],
    ],
)
def test_wrong_command_line_is_one_line_and_status_2(
    more: list[str], arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments(tmp_path / "run"), *more])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and more[0].lstrip("-") in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("scale", "batch_size", "factor"),
    [("none", 1024, 1.0), ("sqrt", 512, 2.0), ("linear", 512, 4.0), ("linear", 128, 1.0), ("sqrt", 32, 0.5)],
)
def test_rates_are_scaled_from_the_batch_of_128(scale: str, batch_size: int, factor: float) -> None:
    assert replace(CONFIG, scale_rate=scale, batch_size=batch_size).rate_scale == pytest.approx(factor)


def test_ablations_are_the_networks() -> None:
    assert tuple(model.alexnet.ABLATIONS) == NETWORK_ABLATIONS


def test_identity_holds_what_changes_the_result_and_nothing_of_where_it_runs() -> None:
    assert set(CONFIG.identity()) == {
        "recipe", "width", "epochs", "batch_size", "seed", "window", "precision", "scale_rate", "augment",
        "schedule", "plateau", "patience", "ablate",
    }  # fmt: skip
    assert replace(CONFIG, seed=4).identity()["seed"] == 4


def missing_folder(shards: Path, tmp_path: Path) -> tuple[list[str], str]:
    return ["--shards", str(tmp_path / "none")], "has no train/; pack images with: make shards"


def no_manifest(shards: Path, tmp_path: Path) -> tuple[list[str], str]:
    (tmp_path / "empty" / "train").mkdir(parents=True)
    return ["--shards", str(tmp_path / "empty")], "manifest.json"


def run_is_a_file(shards: Path, tmp_path: Path) -> tuple[list[str], str]:
    (tmp_path / "file").write_text("")
    return ["--run-dir", str(tmp_path / "file")], "is no folder"


def batch_above_images(shards: Path, tmp_path: Path) -> tuple[list[str], str]:
    return ["--batch-size", "21"], "--batch-size 20 or less"


def missing_checkpoint(shards: Path, tmp_path: Path) -> tuple[list[str], str]:
    return ["--resume-from", str(tmp_path / "none.pt")], "no checkpoint"


def pairs_of_one(shards: Path, tmp_path: Path) -> tuple[list[str], str]:
    return ["--model-parallel", "2"], "--model-parallel 2 needs a number of processes that 2 divides, got 1"


def too_wide(shards: Path, tmp_path: Path) -> tuple[list[str], str]:
    return ["--width", "2000"], "try a higher --accumulate, or a lower --batch-size or --width"


def far_too_wide(shards: Path, tmp_path: Path) -> tuple[list[str], str]:
    return ["--width", "1e8"], "try a higher --accumulate, or a lower --batch-size or --width"


@pytest.mark.parametrize(
    "mistake",
    [
        missing_folder,
        no_manifest,
        run_is_a_file,
        batch_above_images,
        missing_checkpoint,
        pairs_of_one,
        too_wide,
        far_too_wide,
    ],
)
def test_mistakes_are_told_in_one_line_with_status_1(
    mistake: object, arguments: Arguments, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, expected = mistake(shards, tmp_path)  # type: ignore[operator]
    assert main([*arguments(tmp_path / "run"), *more]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and expected in message
    assert not list(tmp_path.rglob("*.pt"))
