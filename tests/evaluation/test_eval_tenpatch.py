"""The command: files, screen, ranks, ties, predictions, and what it says of a user's mistakes."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.augmentation import RecipeName
from eval_tenpatch import main
from evaluation import ten_patch
from evaluation.ten_patch import Evaluation, Predictions, default_batch_size, evaluate
from evaluation.trained_run import TrainedRun
from evaluation.views import Classifier, average_views
from model import AlexNet, ModelConfig
from model.scores import ScoreError, Scores
from sharding import PackOptions, ShardSet, pack
from tests.handmade import WIDTH, make_run
from tests.training.ranks import start

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
METHODS = ("ten_patch", "ten_patch_mean_logits", "center_crop")


@pytest.fixture(scope="module")
def evaluated(raw_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of seven classes after `eval_tenpatch.py --run-dir RUN --batch-size 4`, and what it printed."""
    run = make_run(tmp_path_factory.mktemp("run"), raw_shards)
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        assert main(["--run-dir", str(run), "--batch-size", "4", "--device", "cpu"]) == 0
    return run, screen.getvalue()


def test_report_json_says_what_was_measured_on_what(evaluated: tuple[Path, str], raw_shards: Path) -> None:
    run, _ = evaluated
    report = json.loads((run / "report.json").read_text())
    with ShardSet.open(raw_shards / "val") as val, ShardSet.open(raw_shards / "train") as train:
        assert report["dataset"] == {"shards": str(val.path), "fingerprint": val.fingerprint, "samples": 9}
        assert report["training_dataset"]["fingerprint"] == train.fingerprint
    opened = TrainedRun.open(run)
    assert report["checkpoint"]["sha256"] == opened.checksum()
    assert (report["checkpoint"]["step"], report["checkpoint"]["epoch"]) == (15, 3)
    assert (report["images"], report["classes"], report["split"]) == (9, 7, "val")
    assert report["reference_note"] == "no published reference for this data set"
    assert report["references"] == []
    for method in METHODS:
        figures = report[method]
        assert figures["images"] == 9
        for error in ("top1", "top5"):
            low, high = figures[f"{error}_interval"]
            assert 0 <= low <= figures[f"{error}_error"] <= high <= 1
            assert high - low > 0.2  # nine images do not tell more


def test_predictions_and_class_errors_add_up_to_the_report(evaluated: tuple[Path, str]) -> None:
    run, _ = evaluated
    figures = json.loads((run / "report.json").read_text())["ten_patch"]
    with np.load(run / "predictions.npz") as rows:
        right = rows["best"] == rows["labels"][:, None]
        assert rows["ids"].tolist() == list(range(9))
        assert rows["best"].shape == rows["probability"].shape == (9, 5)
        assert np.all(np.diff(rows["probability"], axis=1) <= 0)
        labels, wrong1 = rows["labels"], ~right[:, 0]
    assert figures["top1_error"] == pytest.approx(wrong1.mean())
    assert figures["top5_error"] == pytest.approx(1 - right.any(axis=1).mean())
    with (run / "class_errors.csv").open() as lines:
        table = list(csv.DictReader(lines))
    assert [row["name"] for row in table] == [f"class-{label}" for label in range(7)]
    for label, row in enumerate(table):
        assert int(row["images"]) == (labels == label).sum()
        assert float(row["top1_errors"]) == wrong1[labels == label].sum()
        assert float(row["top1_error"]) == pytest.approx(wrong1[labels == label].mean(), abs=1e-6)


def test_the_screen_has_the_same_figures(evaluated: tuple[Path, str]) -> None:
    run, printed = evaluated
    report = json.loads((run / "report.json").read_text())
    lines = printed.splitlines()
    assert "9 images" in lines[0] and "last.pt (epoch 3, step 15)" in lines[0]
    titles = ("ten patches, mean of softmax", "ten patches, mean of logits", "center crop")
    for method, title in zip(METHODS, titles):
        line = next(line for line in lines if line.startswith(title))
        low, high = report[method]["top1_interval"]
        assert f"{100 * report[method]['top1_error']:.2f} [{100 * low:.2f}, {100 * high:.2f}]" in line
        assert f"{report[method]['log_loss']:.4f}" in line
    assert "no published reference for this data set" in lines


def test_the_mean_image_comes_from_the_checkpoint(
    evaluated: tuple[Path, str], raw_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated[0] / "checkpoints", run / "checkpoints")
    shutil.copytree(raw_shards / "val", tmp_path / "alone" / "val")  # no statistics.npz, no training split beside it
    assert main(["--run-dir", str(run), "--shards", str(tmp_path / "alone"), "--device", "cpu"]) == 0
    here, there = (json.loads((folder / "report.json").read_text()) for folder in (run, evaluated[0]))
    for method in METHODS:
        assert here[method]["log_loss"] == pytest.approx(there[method]["log_loss"], abs=1e-6)
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    state["statistics"]["mean_image"] += 40
    torch.save(state, run / "checkpoints" / "last.pt")
    assert main(["--run-dir", str(run), "--shards", str(tmp_path / "alone"), "--device", "cpu"]) == 0
    brighter = json.loads((run / "report.json").read_text())
    assert abs(brighter["ten_patch"]["log_loss"] - here["ten_patch"]["log_loss"]) > 1e-3


def test_three_ranks_count_every_image_once(python: Path, evaluated: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated[0] / "checkpoints", run / "checkpoints")
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=3",
        str(ROOT / "eval_tenpatch.py"),
    ]
    done = subprocess.run(
        [python, *command, "--run-dir", str(run), "--batch-size", "1", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHON_EXEC": str(python)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written:") == 1
    one, three = (json.loads((folder / "report.json").read_text()) for folder in (evaluated[0], run))
    assert three["machine"].startswith("3 processes")
    assert three["images"] == one["images"] == 9
    for method in METHODS:
        for name in ("images", "top1_error", "top5_error"):
            assert three[method][name] == pytest.approx(one[method][name], abs=1e-12)
        assert three[method]["log_loss"] == pytest.approx(one[method]["log_loss"], abs=1e-6)
    with np.load(evaluated[0] / "predictions.npz") as first, np.load(run / "predictions.npz") as second:
        assert second["ids"].tolist() == list(range(9))
        np.testing.assert_array_equal(first["best"], second["best"])


def evaluate_and_lose_a_rank(arguments: list[str]) -> int:
    """A rank of an evaluation; the second one is killed when it is to give its part."""
    if os.environ["RANK"] == "1":
        ten_patch.gather = lambda *_all: os.kill(os.getpid(), signal.SIGKILL)
    return main(arguments)


def test_a_lost_rank_is_one_line_and_exit_1(evaluated: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated[0] / "checkpoints", run / "checkpoints")
    ranks = start(tmp_path, 2, evaluate_and_lose_a_rank, ["--run-dir", str(run), "--device", "cpu"])
    assert ranks.wait() == [1, -signal.SIGKILL], ranks.text()
    assert ranks.text().splitlines()[-1].startswith("error: process 1 is gone or does not answer")
    assert "Traceback" not in ranks.text()
    assert not (run / "report.json").exists()


@pytest.mark.parametrize("batch_size", [4, 7, 2])
def test_ranks_without_a_part_of_the_last_batch(jpeg_shards: Path, batch_size: int) -> None:
    """Three ranks, one after the other in this process: 7 images in global batches of 4 leave 3, of 2 leave 1."""
    network, parts = AlexNet(ModelConfig(classes=3, width=WIDTH), seed=0).eval(), []
    with ShardSet.open(jpeg_shards / "val") as shards:
        member = Classifier(network, shards.statistics, "paper", CPU)
        for rank in range(3):
            parts.append(evaluate([member], shards, batch_size=batch_size, rank=rank, world=3))
        whole = Evaluation.joined(parts, len(shards))
        alone = evaluate([member], shards, batch_size=3)
        assert sorted(len(part.rows.ids) for part in parts)[0] < 7 / 3
        np.testing.assert_array_equal(whole.rows.labels, shards.labels(np.arange(7)))
    for method in METHODS:
        assert whole.scores[method].images == 7
        one, other = whole.scores[method].figures(), alone.scores[method].figures()
        assert one["top1_error"] == other["top1_error"]
        assert one["log_loss"] == pytest.approx(other["log_loss"], abs=1e-6)


def test_an_image_counted_twice_or_never_is_refused() -> None:
    def part(ids: list[int]) -> Evaluation:
        rows = Predictions(np.array(ids), *np.zeros((3, len(ids), 1)))
        return Evaluation(scores={method: Scores(3) for method in METHODS}, rows=rows)

    assert Evaluation.joined([part([2]), part([0, 1])], 3).rows.ids.tolist() == [0, 1, 2]
    for ids in ([[0, 1], [1]], [[0], [1]], [[0, 1, 2], [2]], [[0, 1], [3]]):
        with pytest.raises(ScoreError, match=r"each image 0\.\.2 once"):
            Evaluation.joined([part(some) for some in ids], 3)


def test_a_network_that_knows_nothing_is_at_chance(jpeg_shards: Path) -> None:
    network = AlexNet(ModelConfig(classes=3, width=WIDTH), seed=0).eval()
    with torch.no_grad():
        network.fc8.weight.zero_()
        network.fc8.bias.fill_(0.25)
    with ShardSet.open(jpeg_shards / "val") as shards:
        found = evaluate([Classifier(network, shards.statistics, "original", CPU)], shards, batch_size=5)
    for method in METHODS:
        figures = found.scores[method].figures()
        assert figures["top1_error"] == pytest.approx(2 / 3, abs=1e-12)  # ties: a third of an image right each
        assert figures["top5_error"] == 0  # three classes
        assert figures["log_loss"] == pytest.approx(np.log(3), abs=1e-12)


def test_averages_of_views() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (3, 10, 4))
    found = average_views(torch.tensor(logits.reshape(30, 4)))
    powers = np.exp(logits)
    np.testing.assert_allclose(found["ten_patch"], (powers / powers.sum(2, keepdims=True)).mean(1), atol=1e-12)
    np.testing.assert_allclose(found["ten_patch_mean_logits"], logits.mean(axis=1), atol=1e-12)
    np.testing.assert_array_equal(found["center_crop"], logits[:, 2])


@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_pictures_decoded_apart_from_the_network_give_the_same_answers(raw_shards: Path, recipe: RecipeName) -> None:
    network = AlexNet(ModelConfig(recipe=recipe, classes=7, width=WIDTH), seed=0)
    with ShardSet.open(raw_shards / "val") as shards:
        member = Classifier(network, shards.statistics, recipe, CPU)
        one, other = (evaluate([member], shards, batch_size=4, decode=decode) for decode in ("gpu", "cpu"))
    np.testing.assert_array_equal(one.rows.best, other.rows.best)
    np.testing.assert_allclose(one.rows.probability, other.rows.probability, atol=1e-6, rtol=0)


def test_the_batch_is_what_half_of_the_free_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 1)
    for free_gigabytes, images in ((80, 128), (24, 128), (8, 52), (1, 6), (0.01, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free_gigabytes: (int(free * 1e9), 10**11))
        assert default_batch_size(gpu) == images
    assert default_batch_size(CPU) == 25


def test_shards_may_name_the_folder_or_one_split_in_it(evaluated: tuple[Path, str], raw_shards: Path) -> None:
    run = TrainedRun.open(evaluated[0])
    for named in (None, raw_shards, raw_shards / "train", raw_shards / "val"):
        with run.open_split("val", named) as shards:
            assert shards.path == raw_shards / "val"


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err.strip().splitlines()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--run-dir", "NOWHERE"], "no such folder; train first"),
        (["--run-dir", "EMPTY"], "no checkpoint"),
        (["--run-dir", "RUN", "--checkpoint", "best"], "has no checkpoint checkpoints/best.pt"),
        (["--run-dir", "RUN", "--checkpoint", "gone.pt"], "no checkpoint gone.pt"),
        (["--run-dir", "RUN", "--shards", "EMPTY"], "no split 'val' there (it holds no packed split)"),
        (["--run-dir", "RUN", "--shards", "NOWHERE"], "nowhere: no split 'val' there (there is no such folder)"),
        (["--run-dir", "RUN", "--split", "test"], "no split 'test' there (it holds train, val)"),
        (["--run-dir", "RUN", "--shards", "OTHER"], "has other classes (3) than"),
        (["--run-dir", "TORN"], "last.pt"),
        (["--run-dir", "RUN", "--predict", "gone.jpg"], "gone.jpg: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_1(
    arguments: list[str],
    what: str,
    evaluated: tuple[Path, str],
    jpeg_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn" / "checkpoints").mkdir(parents=True)
    whole = (evaluated[0] / "checkpoints" / "last.pt").read_bytes()
    (tmp_path / "torn" / "checkpoints" / "last.pt").write_bytes(whole[: len(whole) // 2])
    places = {
        "NOWHERE": tmp_path / "nowhere",
        "EMPTY": tmp_path / "empty",
        "RUN": evaluated[0],
        "OTHER": jpeg_shards,
        "TORN": tmp_path / "torn",
    }
    before = (evaluated[0] / "report.json").read_bytes()
    assert main([str(places.get(argument, argument)) for argument in arguments]) == 1
    lines = lines_of(capsys)
    assert 1 <= len(lines) <= 2
    assert lines[0].startswith("error: ") and what in lines[0]
    assert (evaluated[0] / "report.json").read_bytes() == before


def test_other_classes_under_the_same_labels_are_refused(
    raw_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", raw_shards)
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    state["dataset"]["classes"][3] = [3, "n00000003", "something else"]
    torch.save(state, run / "checkpoints" / "last.pt")
    assert main(["--run-dir", str(run)]) == 1
    lines = lines_of(capsys)
    assert (
        len(lines) == 1 and "other classes" in lines[0] and "class 3 is 'class-3' there, 'n00000003' here" in lines[0]
    )


@pytest.mark.parametrize(
    "arguments", [[], ["--run-dir"], ["--run-dir", "x", "--split", "train"], ["--run-dir", "x", "--batch-size", "0"]]
)
def test_a_wrong_command_line_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "error: " in lines_of(capsys)[-1]


def test_predict_names_five_classes_of_any_picture(
    evaluated: tuple[Path, str], raw_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = evaluated[0]
    picture = tmp_path / "wide.webp"
    pixels = np.random.default_rng(5).integers(0, 256, (9, 16, 3), np.uint8).repeat(40, axis=0).repeat(40, axis=1)
    Image.fromarray(pixels).save(picture)
    assert main(["--run-dir", str(run), "--predict", str(picture), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(picture) and len(lines) == 6
    # the same answer as that of a split in which this picture stands
    opened, source = TrainedRun.open(run), tmp_path / "source" / "class-0"
    source.mkdir(parents=True)
    picture.rename(source / picture.name)
    shards, table = tmp_path / "shards", raw_shards / "train" / "manifest.json"
    pack(PackOptions(source=source.parent, out=shards, split="val", classes=table, encoding="raw", workers=1))
    member = opened.classifier(CPU)
    with opened.open_split("val", shards) as split:
        found = evaluate([member], split, batch_size=1)
    for line, label, probability in zip(lines[1:], found.rows.best[0], found.rows.probability[0]):
        shown, _, name = line.strip().partition(" %  ")
        assert name == f"class-{label}"
        assert float(shown) == pytest.approx(100 * probability, abs=0.02)


def test_a_broken_picture_costs_itself_and_the_exit_status(
    evaluated: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, broken, empty = tmp_path / "good.png", tmp_path / "broken.jpg", tmp_path / "empty.png"
    Image.new("RGB", (300, 300), (10, 200, 30)).save(good)
    Image.new("RGB", (300, 300)).save(broken)
    broken.write_bytes(broken.read_bytes()[:200])
    empty.write_bytes(b"")
    arguments = ["--run-dir", str(evaluated[0]), "--predict", str(broken), str(good), str(empty)]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    errors = captured.err.strip().splitlines()
    assert len(errors) == 2
    assert errors[0].startswith(f"error: {broken}: ") and errors[1].startswith(f"error: {empty}: ")
    assert captured.out.splitlines()[0] == str(good)
    assert len(captured.out.splitlines()) == 6


def test_predict_works_without_the_shards_and_says_how_it_packs(
    evaluated: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(6).integers(0, 256, (300, 400, 3), np.uint8)).save(picture)
    assert main(["--run-dir", str(evaluated[0]), "--shards", str(tmp_path), "--predict", str(picture)]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("note: pictures are packed with the default options, since ")
    assert len(captured.err.splitlines()) == 1 and len(captured.out.splitlines()) == 6
