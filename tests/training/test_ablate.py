"""`--ablate` and the schedules' options: what is refused, and what run and checkpoint record."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.command_line import parse_config
from model.__main__ import main as export
from tests.training.conftest import Arguments
from train import main
from training.config import TrainConfig

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(shards=Path("shards"), run_dir=Path("run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ablate": ("norms", "fc6")}, "--ablate takes norms, overlap, columns, .*, color, crops; got fc6"),
        ({"ablate": ("color",), "augment": "off"}, "--augment off leaves no color for --ablate to leave out"),
        ({"ablate": ("columns",), "model_parallel": "2"}, "needs --model-parallel 1, got 2"),
        ({"recipe": "paper", "schedule": "second"}, "--schedule belongs to --recipe original, got --recipe paper"),
        ({"plateau": "top5"}, "--plateau belongs to --recipe paper, got --recipe original"),
        ({"patience": 3}, "--patience belongs to --recipe paper"),
        ({"recipe": "paper", "patience": 0}, "--patience is at least 1, got 0"),
    ],
)
def test_what_cannot_work_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_names_are_one_set_in_any_order() -> None:
    line = ["--shards", "shards", "--run-dir", "run", "--ablate", "crops", "columns", "crops"]
    config = parse_config(TrainConfig, line, "train.py", "")
    assert config == replace(CONFIG, ablate=("columns", "crops"))
    assert config.model_parallel == "1"
    assert config.identity()["ablate"] == ("columns", "crops")


def test_a_run_records_what_it_leaves_out_and_goes_on_only_with_that(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    ablate = ["--ablate", "conv4", "color", "norms", "crops"]
    assert main([*arguments(run, "--max-steps", "2"), *ablate]) == 0
    assert "without norms, conv4, color, crops" in capsys.readouterr().err
    checkpoint = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    for state in (checkpoint, json.loads((run / "config.json").read_text())):
        assert list(state["train_config"]["ablate"]) == ["norms", "conv4", "color", "crops"]
        assert list(state["model_config"]["ablate"]) == ["norms", "conv4"]
        assert (state["data_config"]["noise_epochs"], state["data_config"]["random_crops"]) == (0, False)
    assert len(checkpoint["model"]) == 14 and "conv4.weight" not in checkpoint["model"]
    assert export(["export", str(run), str(tmp_path / "net.safetensors")]) == 0

    assert main(arguments(run, "--max-steps", "3")) == 1
    assert "--ablate was ('norms', 'conv4', 'color', 'crops'), is ()" in capsys.readouterr().err
    assert main([*arguments(run, "--max-steps", "3"), *ablate]) == 0
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] == 3
