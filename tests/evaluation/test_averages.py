"""Several networks over one split: their mean against NumPy, on any number of ranks; what cannot be averaged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import VIEWS
from eval_tenpatch import main
from evaluation.trained_run import TrainedRun
from sharding import ShardSet
from tests.handmade import make_run, pack_splits
from tests.training.ranks import start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(raw_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs whose networks, recipes and mean images differ."""
    folder = tmp_path_factory.mktemp("runs")
    made = [
        make_run(folder / name, raw_shards, recipe) for name, recipe in zip("ABC", ("original", "paper", "original"))
    ]
    last = made[2] / "checkpoints" / "last.pt"
    state = torch.load(last, weights_only=True)
    state["statistics"]["mean_image"] += 30
    state["model"]["fc8.weight"] = state["model"]["fc8.weight"].flip(1)
    torch.save(state, last)
    return made


def command(*folders: Path) -> list[str]:
    return ["--run-dir", *map(str, folders), "--batch-size", "4", "--device", "cpu"]


def by_hand(run: Path, shards: Path) -> np.ndarray:
    """Ten-patch probabilities float64 [images, classes] of one network, from the loader's own float32 views."""
    opened, answers = TrainedRun.open(run), []
    config = DataConfig(recipe=opened.recipe, batch_size=3, training=False, views=VIEWS)
    with ShardSet.open(shards / "val") as val, Loader(val, config, statistics=opened.statistics) as loader:
        for batch in loader.epoch(0):
            with torch.no_grad():
                logits = opened.classifier(torch.device("cpu")).network(batch.images).double().numpy()
            exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
            softmax = exponents / exponents.sum(axis=1, keepdims=True)
            answers.append(softmax.reshape(-1, VIEWS, softmax.shape[1]).mean(axis=1))
    return np.concatenate(answers)


def test_the_mean_is_that_of_the_networks_by_hand(
    runs: list[Path], raw_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = [by_hand(run, raw_shards) for run in runs]
    mean = sum(single) / 3
    assert max(np.abs(one - other).max() for one in single for other in single) > 0.1
    assert main(command(*runs)) == 0
    printed = capsys.readouterr().out
    with np.load(runs[0] / "average" / "predictions.npz") as rows:
        np.testing.assert_array_equal(rows["best"], np.argsort(-mean, axis=1)[:, :5])
        np.testing.assert_allclose(rows["probability"], -np.sort(-mean, axis=1)[:, :5], atol=1e-6)
        labels = rows["labels"]
    report = json.loads((runs[0] / "average" / "report.json").read_text())
    assert report["ten_patch"]["log_loss"] == pytest.approx(-np.log(mean[np.arange(9), labels]).mean(), abs=1e-6)
    assert len(report["members"]) == 3
    for run, member, probabilities in zip(runs, report["members"], single):
        wrong = (probabilities.argmax(axis=1) != labels).mean()
        assert member["ten_patch"]["top1_error"] == pytest.approx(wrong)
        assert member["gain"]["top1_error"] == pytest.approx(wrong - report["ten_patch"]["top1_error"])
        assert member["sha256"] == TrainedRun.open(run).checksum()
        assert f"{member['file']} alone" in printed
    assert "ten patches, mean of softmax, 3 networks" in printed
    assert not (runs[0] / "report.json").exists()  # the first run's own evaluation is another


def test_two_ranks_give_the_same_mean(runs: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs[:2]]
    results = []
    for world in (1, 2):
        ranks = start(tmp_path / f"{world}", world, main, command(*copies))
        assert ranks.wait() == [0] * world, ranks.text()
        with np.load(copies[0] / "average" / "predictions.npz") as rows:
            results.append({name: rows[name] for name in rows})
    np.testing.assert_array_equal(results[0]["best"], results[1]["best"])
    np.testing.assert_allclose(results[0]["probability"], results[1]["probability"], atol=1e-6)


def test_other_classes_and_other_splits_are_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = make_run(tmp_path / "fewer", pack_splits(tmp_path / "3", classes=3, train=9, val=6, encoding="raw"))
    assert main(command(runs[0], fewer)) == 1
    assert "holds other images than" in capsys.readouterr().err
    assert main([*command(runs[0], fewer), "--shards", str(tmp_path / "3" / "shards")]) == 1
    assert "has other classes (3) than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--predict", "cat.jpg"], "take one --run-dir, got several"),
        (["--checkpoint", "epoch-0010.pt"], "take one --run-dir, got several"),
        (["--run-dir", "A", "A"], "names a folder twice"),
    ],
)
def test_a_wrong_command_line_is_refused(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--run-dir", "A", "B", *more])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
