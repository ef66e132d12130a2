"""The page of `python -m report` as a reader without eyes or network would find it, and what may be missing."""

import base64
import csv
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.trained_run import EvaluationError, TrainedRun
from report.__main__ import main
from report.drawing import Picture
from report.logged import errors_section, read_class_errors, read_evaluation
from report.page import Section, Table, render

PICTURES = ["curves", "filters", "guesses", "neighbors", "augmented", "classes", "confusions"]


class Page(HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.headings: list[str] = []
        self.cells: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attributes)
        if tag == "img":
            self.images.append(values)
        else:
            self._open.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src", "action", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "style":
            return
        if data.strip():
            self.words.append(" ".join(data.split()))
        if inside == "h2":
            self.headings.append(data)
        if inside in ("td", "th"):
            self.cells.append(data)


@pytest.fixture(scope="module")
def reported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    folder = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(run, folder)
    assert main(["--run-dir", str(folder), "--device", "cpu"]) == 0
    return folder, Page((folder / "report.html").read_text())


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def page_of(folder: Path, *arguments: str) -> Page:
    assert main(["--run-dir", str(folder), "--device", "cpu", *arguments]) == 0
    return Page((folder / "report.html").read_text())


def test_the_page_needs_nothing_but_itself(reported: tuple[Path, Page]) -> None:
    folder, page = reported
    text = (folder / "report.html").read_text()
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert not re.search(r"https?://|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert {link.split(",")[0] for link in page.links if not link.startswith("#")} == {"data:image/png;base64"}
    assert len(page.links) > len(PICTURES)
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert all(f'id="{anchor}"' in text for anchor in anchors)


def test_every_picture_is_inside_beside_and_in_words(reported: tuple[Path, Page]) -> None:
    folder, page = reported
    assert sorted(path.stem for path in (folder / "report").iterdir()) == sorted(PICTURES)
    assert len(page.images) == len(PICTURES)
    for name, image in zip(PICTURES, page.images):
        content = base64.b64decode((image["src"] or "").partition(",")[2])
        assert content == (folder / "report" / f"{name}.png").read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "PNG" and np.asarray(picture.convert("L")).std() > 5
        assert len(image["alt"] or "") > 40
    words = dict(zip(PICTURES, (image["alt"] or "" for image in page.images)))
    assert "Training loss from 2.000 to 0.222" in words["curves"]  # 2 / step, nine steps
    assert "Training top-5 error from 50.0% to 5.6%" in words["curves"]
    assert "Validation top-1 error from 60.0% to 20.0%" in words["curves"]
    assert "The 6 filters of conv1" in words["filters"] and "tower A's 3 above" in words["filters"]
    noise = re.findall(r"color noise of up to (\d+) gray levels", words["augmented"])
    assert len(noise) == 2 and all(2 < int(levels) < 80 for levels in noise)
    assert words["guesses"].startswith("8 held-out images") and words["neighbors"].startswith("5 held-out images")


def test_the_errors_are_those_of_report_json(reported: tuple[Path, Page]) -> None:
    folder, page = reported
    report = json.loads((folder / "report.json").read_text())
    for method, title in (
        ("ten_patch", "ten patches, mean of softmax"),
        ("ten_patch_mean_logits", "ten patches, mean of logits"),
        ("center_crop", "center crop"),
    ):
        figures, place = report[method], page.cells.index(title)
        for cell, name in zip(page.cells[place + 1 : place + 3], ("top1", "top5")):
            low, high = figures[f"{name}_interval"]
            assert cell == f"{100 * figures[f'{name}_error']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        assert page.cells[place + 3].startswith(f"{figures['log_loss']:.4f} [")
    assert "No published reference for this data set." in page.words


def test_configuration_versions_and_checksums_are_told(reported: tuple[Path, Page]) -> None:
    folder, page = reported
    run, report = TrainedRun.open(folder), json.loads((folder / "report.json").read_text())
    rows = dict(zip(page.cells, page.cells[1:]))
    assert rows["train: batch_size"] == "4" and rows["model: recipe"] == "original"
    assert rows["checkpoint, SHA-256"] == run.checksum() == rows["evaluated checkpoint, SHA-256"]
    assert rows["training data, checksum"] == run.state["dataset"]["fingerprint"]
    assert rows["evaluated data, checksum"] == report["dataset"]["fingerprint"]
    assert f"torch {metadata.version('torch')}" in rows["this page made with"]  # torch.__version__ may have a suffix


def test_classes_are_those_of_the_csv(reported: tuple[Path, Page]) -> None:
    folder, page = reported
    alternative = page.images[PICTURES.index("classes")]["alt"] or ""
    with (folder / "class_errors.csv").open() as lines:
        rows = sorted(csv.DictReader(lines), key=lambda row: (float(row["top1_error"]), int(row["label"])))
    assert f"Lowest: {rows[0]['name']} {float(rows[0]['top1_error']):.1%}" in alternative
    assert f"Highest: {rows[-1]['name']} {float(rows[-1]['top1_error']):.1%}" in alternative
    with np.load(folder / "predictions.npz") as found:
        right = int((found["best"][:, 0] == found["labels"]).sum())
    assert f"Confusion matrix of 9 images: {right} on the diagonal." in (page.images[-1]["alt"] or "")


def test_a_run_that_was_not_evaluated_and_had_another_report(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "<b>run & co"))  # names cannot become markup
    for name in ("report.json", "class_errors.csv", "predictions.npz"):
        (copy / name).unlink()
    (copy / "report").mkdir()
    (copy / "report" / "old.png").write_bytes(b"old")
    (copy / "report" / "notes.txt").write_text("mine")
    page = page_of(copy, "--neighbors-among", "7")
    sentence = f"This run has not been evaluated yet: python eval_tenpatch.py --run-dir {copy}"
    assert page.words.count(sentence) == 2  # errors, classes
    assert len(page.images) == len(PICTURES) - 2
    assert "Run <b>run & co" in page.words and "b" not in page.tags
    assert any("searched among 7 of 14 training images" in words for words in page.words)
    assert not (copy / "report" / "old.png").exists()
    assert (copy / "report" / "notes.txt").read_text() == "mine"


def test_missing_splits_and_metrics_are_sentences(copy: Path, shards: Path, tmp_path: Path) -> None:
    (copy / "metrics.jsonl").unlink()
    elsewhere = tmp_path / "shards"
    shutil.copytree(shards / "train", elsewhere / "train")
    page = page_of(copy, "--shards", str(elsewhere))
    said = " ".join(page.words)
    assert "No curves: " in said and "metrics.jsonl: no such file" in said
    assert f"Not shown: {elsewhere}: no split 'val' there (it holds train)" in said
    assert len(page.images) == 4  # filters, augmented, classes, confusions
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    page = page_of(copy, "--shards", str(nothing))
    assert sum(words.startswith("Not shown: ") for words in page.words) == 2
    assert len(page.images) == 3


def test_errors_of_another_step_are_marked(run: Path) -> None:
    opened = TrainedRun.open(run)
    evaluation = read_evaluation(opened)
    assert not any(
        "another" in sentence or "step" in sentence for sentence in errors_section(opened, evaluation).sentences
    )
    later = replace(opened, state=opened.state | {"step": 99})
    marked = "These errors are those of step 9; everything else on this page is of step 99."
    assert any(sentence.startswith(marked) for sentence in errors_section(later, evaluation).sentences)


def test_the_screen_ends_with_errors_speed_and_place(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = json.loads((copy / "report.json").read_text())
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    speed = np.median([line["images_per_second"] for line in lines if "images_per_second" in line])
    assert main(["--run-dir", str(copy)]) == 0
    errors, trained, place = capsys.readouterr().out.splitlines()
    assert f"top-1 error {100 * evaluation['ten_patch']['top1_error']:.2f} %" in errors
    assert f"top-5 error {100 * evaluation['ten_patch']['top5_error']:.2f} %" in errors
    assert trained == f"trained at {speed:,.0f} images/s"
    assert place.startswith(f"report: {copy / 'report.html'} ")


def test_text_cannot_become_markup() -> None:
    section = Section(
        name="x",
        title="<script>alert(1)</script>",
        sentences=["a < b"],
        table=Table(header=("h",), rows=[("<td>", "&amp;")]),
        pictures=[Picture(name="p", png=b"123", alternative='"><script>', caption="<img src=x>")],
    )
    found = Page(render("t", [], [section]))
    assert "script" not in found.tags and len(found.images) == 1
    assert found.images[0]["alt"] == '"><script>'
    assert found.cells == ["h", "<td>", "&amp;"]


def test_a_foreign_class_table_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "class_errors.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(EvaluationError, match=r"class_errors\.csv: not the table"):
        read_class_errors(table)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda run: shutil.rmtree(run), "no such folder; train first"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "has no checkpoint"),
        (lambda run: (run / "report.json").write_text("{}"), "report.json: not a report of this program"),
        (lambda run: (run / "report.json").write_text("[1"), "report.json: not a report of this program"),
    ],
)
def test_a_mistake_is_one_line_and_exit_1(
    copy: Path, change: object, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(copy)  # type: ignore[operator]
    assert main(["--run-dir", str(copy), "--device", "cpu"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and what in lines[0]
    assert not (copy / "report.html").exists()


@pytest.mark.parametrize("arguments", [[], ["--run-dir", "x", "--neighbors-among", "0"]])
def test_a_wrong_command_line_is_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
