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

from evaluation.results import read_report
from evaluation.trained_run import TrainedRun
from report.__main__ import main
from report.build import run_facts
from report.errors import errors_section
from report.page import Bar, Card, Chart, Charts, Gallery, Section, Table, render

SECTIONS = [
    "errors", "curves", "filters", "guesses", "neighbors", "augmented", "confusions", "mistakes", "classes",
    "configuration",
]  # fmt: skip
CHARTS = ["data_wait_fraction", "images_per_second", "loss", "rate", "top1_error", "top5_error"]


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
        self.sections: list[str | None] = []
        self.charts: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attributes)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "section":
            self.sections.append(values["id"])
        if values.get("role") == "img":
            self.charts.append(values["aria-label"] or "")
        if tag in ("img", "input", "meta"):
            self.images += [values] if tag == "img" else []
        else:
            self._open.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src", "action", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside in ("style", "script"):
            return
        if data.strip():
            self.words.append(" ".join(data.split()))
        if inside == "h2":
            self.headings.append(data)
        if inside in ("td", "th"):
            self.cells[-1] += data


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
    assert not page.tags & {"link", "iframe", "object", "embed"}
    elsewhere = re.sub(r"base64,[A-Za-z0-9+/=]+|http://www\.w3\.org/(2000/svg|1999/xlink)", "", text)
    assert not re.search(r"https?://|[\"'(]//|@import|url\((?!#)|src=\"(?!data:)", elsewhere)
    assert "default-src 'none'" in text
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert anchors == SECTIONS == page.sections
    assert {link.split(",")[0] for link in page.links if not link.startswith("#")} == {
        "data:image/jpeg;base64", "data:image/png;base64"
    }  # fmt: skip


def test_charts_lie_beside_the_page_and_pictures_inside(reported: tuple[Path, Page]) -> None:
    folder, page = reported
    text = (folder / "report.html").read_text()
    assert sorted(path.stem for path in (folder / "report").iterdir()) == CHARTS
    for name in CHARTS:
        assert (folder / "report" / f"{name}.svg").read_text() in text
    assert len(page.charts) == len(CHARTS) and "Training from 50.0% to 5.6%" in page.charts[2]  # 0.5 / step, nine steps
    for image in page.images:
        content = base64.b64decode((image["src"] or "").partition(",")[2])
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format in ("JPEG", "PNG") and np.asarray(picture.convert("L")).std() > 1
    assert len(page.images) >= 6 + 8 + 5 * 7 + 2 * 4  # filters, guesses, neighbors, batches; confusions as they come


def test_the_head_tells_network_speed_time_and_errors(reported: tuple[Path, Page]) -> None:
    folder, page = reported
    state, report = TrainedRun.open(folder).state, json.loads((folder / "report.json").read_text())
    facts = dict(zip(page.words[2:18:2], page.words[3:19:2]))
    assert facts["parameters"] == f"{sum(weights.numel() for weights in state['model'].values()):,}"
    assert facts["checkpoint"] == "last.pt: 3 epochs, 9 steps"
    assert facts["median throughput"] == "105 images/s"
    assert facts["training time, steps alone"] == "0:00:00"
    errors = [f"{100 * report['ten_patch'][f'{name}_error']:.2f} %" for name in ("top1", "top5")]
    assert facts["top-1 and top-5 error, ten patches"] == " and ".join(errors)


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
    with (folder / "class_errors.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    start = len(page.cells) - page.cells[::-1].index("wnid")
    for number, row in enumerate(rows):
        cells = page.cells[start + 7 * number : start + 7 * number + 7]
        errors = [f"{float(row[error]):.1%}" for error in ("top1_error", "top5_error")]
        assert cells[:4] + cells[5:] == [row["name"], row["images"], *errors, row["label"], row["wnid"]]


def test_a_run_that_was_not_evaluated_and_had_another_report(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "<b>run & co"))  # names cannot become markup
    for name in ("report.json", "class_errors.csv", "predictions.npz"):
        (copy / name).unlink()
    (copy / "report").mkdir()
    (copy / "report" / "memory_bytes.svg").write_text("old")
    (copy / "report" / "notes.svg").write_text("mine")
    page = page_of(copy, "--neighbors-among", "7")
    sentence = f"Not evaluated yet: python eval_tenpatch.py --run-dir {copy}"
    assert page.words.count(sentence) == 2  # head, errors
    assert f"Not shown: {sentence}" in page.words
    assert page.sections == [name for name in SECTIONS if name not in ("confusions", "mistakes")]
    assert "Run <b>run & co" in page.words and "b" not in page.tags
    assert any("searched among 7 of 14 training images" in words for words in page.words)
    assert not (copy / "report" / "memory_bytes.svg").exists()
    assert (copy / "report" / "notes.svg").read_text() == "mine"


def test_missing_splits_and_metrics_are_sentences(copy: Path, shards: Path, tmp_path: Path) -> None:
    (copy / "metrics.jsonl").unlink()
    elsewhere = tmp_path / "shards"
    shutil.copytree(shards / "train", elsewhere / "train")
    page = page_of(copy, "--shards", str(elsewhere))
    said = " ".join(page.words)
    assert "No curves: " in said and "metrics.jsonl: no such file" in said
    assert f"Not shown: {elsewhere}: no split 'val' there (it holds train)" in said
    assert said.count("Without pictures: the split that was evaluated is not where --shards says.") == 2
    assert not page.charts and len(page.images) == 6 + 2 * 4  # filters, batches
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    page = page_of(copy, "--shards", str(nothing))
    assert sum(words.startswith("Not shown: ") for words in page.words) == 2
    assert len(page.images) == 6


def test_errors_of_another_step_are_marked(run: Path) -> None:
    opened = TrainedRun.open(run)
    evaluation = read_report(run)
    assert not any(
        "another" in sentence or "step" in sentence for sentence in errors_section(opened, evaluation).sentences
    )
    later = replace(opened, state=opened.state | {"step": 99})
    marked = "These errors are those of step 9; everything else on this page is of step 99."
    assert any(sentence.startswith(marked) for sentence in errors_section(later, evaluation).sentences)


def test_the_screen_has_the_head_and_the_place(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = json.loads((copy / "report.json").read_text())
    assert main(["--run-dir", str(copy)]) == 0
    *head, place = capsys.readouterr().out.splitlines()
    facts = dict(line.split(": ", 1) for line in head)
    errors = [f"{100 * evaluation['ten_patch'][f'{name}_error']:.2f} %" for name in ("top1", "top5")]
    assert facts["top-1 and top-5 error, ten patches"] == " and ".join(errors)
    assert facts["median throughput"] == "105 images/s"
    assert place.startswith(f"report: {copy / 'report.html'} ")
    (copy / "report.html").unlink()
    assert main(["--run-dir", str(copy), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "") and (copy / "report.html").is_file()


def test_speed_and_time_are_those_of_the_logged_steps(copy: Path) -> None:
    def facts(*lines: dict[str, object]) -> tuple[str, str]:
        (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        head = dict(run_facts(TrainedRun.open(copy), None))
        return head["median throughput"], head["training time, steps alone"]

    # every second step is logged; a batch has four images
    lines = [{"step": step, "images_per_second": speed} for step, speed in ((2, 0.01), (4, 0.02), (6, 0.04))]
    assert facts(*lines) == ("0 images/s", "0:23:20")  # 800 + 400 + 200 seconds
    assert facts({"step": 1, "images_per_second": 8.0}, {"step": 2, "images_per_second": 4}) == (
        "6 images/s",
        "0:00:02",
    )
    assert facts({"step": 1, "loss": 1.0}) == ("not logged for all steps", "unknown")
    assert facts({"loss": 1.0})[0].startswith(f"unknown: {copy / 'metrics.jsonl'}:1: expected a line")


def test_text_cannot_become_markup() -> None:
    bad = '"><script>alert(1)</script>'
    blocks = [
        Table(header=(bad,), rows=[("<td>", "&amp;", Bar(text=bad, share=0.5))], caption=bad),
        Gallery(cards=[Card(pictures=[bad], alternative=bad, title=bad, lines=[bad])], caption=bad),
        Charts(charts=[Chart(name="x", title=bad, svg="<svg></svg>", alternative=bad)], legend=[(bad, bad)]),
    ]
    text = render(bad, [(bad, bad)], [Section(name="x", title=bad, sentences=[bad], blocks=blocks)])
    assert text.count("<script>") == 1 and "alert(1)</script>" not in text.replace("&lt;/script&gt;", "")
    page = Page(text)
    assert [(image["alt"], image["src"]) for image in page.images] == [(bad, bad)]
    assert page.cells == [bad, "<td>", "&amp;", bad] and page.charts == [bad]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda run: shutil.rmtree(run), "no such folder; train first"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "has no checkpoint"),
        (lambda run: (run / "report.json").write_text("{}"), "report.json: not what eval_tenpatch.py writes"),
        (lambda run: (run / "report.json").write_text("[1"), "report.json: not what eval_tenpatch.py writes"),
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


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--run-dir", "x", "--neighbors-among", "0"],
        ["--run-dir", "x", "--compare", "y", "z"],
        ["--compare", "y"],
        ["--run-dir", "x", "--out", "page"],
        ["--compare", *"abcdefg"],
    ],
)
def test_a_wrong_command_line_is_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
