"""Evaluating and reporting with what a user may have in the run's folder: (what there is, what happens)."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval_tenpatch import main as evaluate
from evaluation.results import PREDICTIONS, REPORT
from model.checkpoint import load_checkpoint, save_checkpoint
from report.__main__ import main as make_report
from tests.handmade import make_run, pack_splits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run of three classes."""
    folder = tmp_path_factory.mktemp("reports")
    run = make_run(folder / "run", pack_splits(folder, classes=3, train=6, val=3, encoding="jpeg"))
    assert evaluate(["--run-dir", str(run), "--device", "cpu"]) == 0
    return run


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "run"))


def report(run: Path, *arguments: str) -> int:
    return make_report(["--run-dir", str(run), "--device", "cpu", *arguments])


def name_class(run: Path, name: str) -> None:
    checkpoint = run / "checkpoints" / "last.pt"
    state = load_checkpoint(checkpoint)
    state["dataset"]["classes"][1][2] = name
    save_checkpoint(checkpoint, state)


@pytest.mark.parametrize("name", ["$a_{b$", "$\\frac{$", "a\nb", "<b>&amp;", "\u202eright to left", "x" * 5000, " "])
def test_any_name_of_a_class_makes_a_page(run: Path, name: str) -> None:
    name_class(run, name)
    assert report(run) == 0


def test_a_run_with_a_formula_for_a_name_can_be_compared(run: Path) -> None:
    formula = Path(shutil.copytree(run, run.with_name("$a_{b$")))
    assert make_report(["--compare", str(run), str(formula)]) == 0
    assert "$a_{b$" in (run / "compare.html").read_text()


def change_report(**changes: Any) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        content = json.loads((run / REPORT).read_text())
        (run / REPORT).write_text(json.dumps(content | changes))

    return change


def change_predictions(**changes: Any) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        with np.load(run / PREDICTIONS) as rows:
            content = dict(rows)
        for name, function in changes.items():
            content[name] = function(content[name])
        np.savez(run / PREDICTIONS, **content)

    return change


def cut_in_half(run: Path) -> None:
    content = (run / PREDICTIONS).read_bytes()
    (run / PREDICTIONS).write_bytes(content[: len(content) // 2])


FOREIGN = [
    ("a list", lambda run: (run / REPORT).write_text("[1]"), "report.json: not what eval_tenpatch.py writes"),
    ("null", lambda run: (run / REPORT).write_text("null"), "expected an object, got NoneType"),
    ("a picture", lambda run: (run / REPORT).write_bytes(b"\xff\xd8\xff"), "report.json: not what"),
    ("deep brackets", lambda run: (run / REPORT).write_text("[" * 100_000), "report.json: not what"),
    ("a number for a date", change_report(date=3), "field 'date': expected str, got '3'"),
    ("text for a number", change_report(images="9"), "field 'images': expected int, got '9'"),
    ("a bare checkpoint", change_report(checkpoint={"step": 1}), "field 'checkpoint.sha256': expected str, got 'None'"),
    ("no data set", change_report(dataset=None), "expected an object under 'dataset', got NoneType"),
    ("another program's references", change_report(references=[{"error": 1}]), "report.json: not what"),
    ("a number too large", change_report(images_per_second=10**400), "field 'images_per_second': expected float"),
    ("text in place of predictions", lambda run: (run / PREDICTIONS).write_text("a,b\n"), "predictions.npz: not what"),
    ("half of the predictions", cut_in_half, "predictions.npz: not what"),
    ("one bare array", lambda run: np.save((run / PREDICTIONS).open("wb"), np.zeros(3)), "predictions.npz: not what"),
    ("objects", change_predictions(best=lambda best: best.astype(object)), "predictions.npz: not what"),
    ("other labels", change_predictions(labels=lambda labels: labels + 5), "labels: expected whole numbers in 0..2"),
    ("negative guesses", change_predictions(best=lambda best: -1 - best), "best: expected whole numbers in 0..2"),
    ("labels with fractions", change_predictions(labels=lambda labels: labels + 0.5), "labels: expected whole numbers"),
    ("fewer rows", change_predictions(labels=lambda labels: labels[1:]), "expected a label for each row"),
    ("rows in another order", change_predictions(ids=lambda ids: ids[::-1]), "expected a row for each sample"),
    ("no rows", change_predictions(best=lambda best: best[:0]), "expected rows"),
    ("a probability too few", change_predictions(probability=lambda shares: shares[:, 1:]), "for each guess"),
    ("NaN", change_predictions(probability=lambda shares: shares * np.nan), "probability: expected finite numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "what"), [case[1:] for case in FOREIGN], ids=[case[0] for case in FOREIGN])
def test_foreign_results_are_one_line_with_what_to_do(
    run: Path, change: Callable[[Path], object], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run)
    assert report(run) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and what in line
    assert line.endswith(f"make it again: python eval_tenpatch.py --run-dir {run}")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "null\n",
            "got 'null' (expected an object, got NoneType)",
        ),
        (
            '{"step": 1, "loss": 1}\n\n{"step": 2, "loss": 1}\n',
            "metrics.jsonl:2: expected a line that train.py ",
        ),
        ('{"step": "1"}\n', "field 'step': expected int, got '1'"),
        ("", "no training step is logged there yet"),
    ],
)
def test_a_foreign_log_costs_the_curves_alone(
    run: Path, text: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "metrics.jsonl").write_text(text)
    assert report(run) == 0
    assert f"median throughput: unknown: {run}" in (screen := capsys.readouterr().out) and what in screen
    assert "No curves: " in (run / "report.html").read_text()


def test_a_foreign_class_table_is_not_read(run: Path) -> None:
    (run / "class_errors.csv").write_bytes(b"\xff\x00\xfe")
    assert report(run) == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--out", "FILE/page.html"], "Not a directory"),
        (["--baseline", "NOWHERE"], "no such folder; train first"),
        (["--checkpoint", "FILE"], "is cut short or no checkpoint"),
        (["--device", "cuda"], "--device cuda, but torch sees no GPU here"),
    ],
)
def test_a_wrong_path_is_one_line(
    run: Path, tmp_path: Path, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("text")
    paths = {"FILE": tmp_path / "file", "FILE/page.html": tmp_path / "file" / "page.html", "NOWHERE": tmp_path / "no"}
    arguments = [str(paths.get(argument, argument)) for argument in arguments]
    assert report(run, *arguments) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and what in line


def program(arguments: list[str], torch: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line of ours with a module `torch` that does something else."""
    (folder / "torch.py").write_text(torch)
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


PROGRAMS = (["eval_tenpatch.py"], ["-m", "report"])


@pytest.mark.parametrize("command", PROGRAMS, ids=["eval_tenpatch", "report"])
@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--nonsense", 2)])
def test_help_and_a_wrong_option_do_not_wait_for_torch(
    command: list[str], option: str, status: int, tmp_path: Path
) -> None:
    done = program([*command, option], "raise SystemExit('imported torch')", tmp_path)
    assert done.returncode == status, done.stderr
    assert "usage: " in done.stdout if status == 0 else len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", PROGRAMS, ids=["eval_tenpatch", "report"])
def test_ctrl_c_during_imports_is_one_word(command: list[str], tmp_path: Path) -> None:
    done = program([*command, "--run-dir", str(tmp_path)], "import os\nos.kill(os.getpid(), 2)\n", tmp_path)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
