"""Measuring: turns are taken, ratios are side by side, children's CPU counts, and files say what was run."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import results
from benchmarks.measure import Repeat, Row, cpu_seconds, interleave, own_bytes, timed, waits
from benchmarks.results import Table, in_words


def counted(calls: list[str], name: str, images: int, cpus: list[float]) -> Callable[[], Repeat]:
    def repeat() -> Repeat:
        calls.append(name)
        cpu = cpus[calls.count(name) - 1]
        return Repeat(images=images, seconds=2.0, cpu_seconds=cpu, peak_bytes=7)

    return repeat


def test_works_take_turns_and_ratios_pair_the_rounds() -> None:
    calls: list[str] = []
    works = {"a": counted(calls, "a", 10, [9, 1, 2, 4]), "b": counted(calls, "b", 5, [9, 1, 4, 4])}
    rows = interleave(works, repeats=3)
    assert calls == ["a", "b"] * 4
    a, b = rows.values()
    assert (a.name, b.name, list(rows)) == ("a", "b", ["a", "b"])
    assert a.rate().tolist() == [10.0, 5.0, 2.5]  # the warm-up does not count
    assert a.rate("seconds").tolist() == [5.0] * 3
    assert b.over(a).tolist() == [0.5, 0.25, 0.5]  # 5/10, 1.25/5, 1.25/2.5


def test_of_a_hundred_waits_one_is_longer_than_the_99th() -> None:
    found = waits([0.01 * number for number in range(100, 0, -1)])
    assert found == {"waited_seconds": pytest.approx(50.5), "wait_p99_seconds": pytest.approx(0.99)}


def test_cpu_of_a_living_and_of_an_ended_child_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", burn], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_seconds() - before >= 0.29  # still living
    assert cpu_seconds() - before >= 0.29  # ended


def test_peak_memory_is_that_of_the_work_alone_with_its_children() -> None:
    def work(mb: int) -> int:
        run = "import sys, time\nheld = b'1' * (int(sys.argv[1]) << 20)\nwhile time.process_time() < 0.6: pass"
        subprocess.run([sys.executable, "-c", run, str(mb)], check=True)
        return 1

    large, small = timed(lambda: work(300)).peak_bytes, timed(lambda: work(0)).peak_bytes
    assert 250e6 < large - small < 350e6


def test_published_files_hold_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repeats = [
        Repeat(images=12344, seconds=100, cpu_seconds=12344 / rate, peak_bytes=7_000_000, wait_p99_seconds=0.0021)
        for rate in (1200, 1234.4, 1300)
    ]
    fast = Row(name="fast", repeats=repeats)
    slow = Row(name="slow", repeats=[replace(repeat, images=6172) for repeat in repeats], note="half")
    ceiling = Row(name="ceiling", repeats=[Repeat(images=300, seconds=2, cpu_seconds=0)])  # no rate of work
    rows = [fast, slow, ceiling, Row(name="absent", missing="not installed")]
    data_set: dict[str, object] = {"samples": 3}
    table = Table(title="A title", rows=rows, data_set=data_set, operations="decode", ours="fast", remarks=["a remark"])
    table.publish("loader", True, tmp_path)
    document = json.loads((tmp_path / "loader.json").read_text())
    assert [len(row["repeats"]) for row in document["rows"]] == [3, 3, 1, 0] and document["ours"] == "fast"
    assert document["rows"][0]["repeats"][2]["cpu_seconds"] == 12344 / 1300
    assert document["remarks"] == ["a remark"]
    assert document["machine"]["versions"]["numpy"] and document["data_set"] == {"samples": 3}
    text = (tmp_path / "loader.md").read_text()
    assert "|  | images/s | images per CPU-second | of ours | peak MB | p99 wait ms | note |\n| --- |" in text
    assert "| fast | 123 (123–123) | 1234 (1200–1300) | 1.00 | 7 | 2.1 |  |\n" in text
    assert "| slow | 61.7 (61.7–61.7) | 617 (600–650) | 0.50 | 7 | 2.1 | half |\n" in text
    assert "| ceiling | 150 (150–150) |  |  |  |  |  |\n| absent |  |  |  |  |  | not installed |\n" in text
    assert text.endswith("|\n\n- a remark\n")
    assert capsys.readouterr().out == text
    assert (tmp_path / "loader.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loader.json", "loader.md", "loader.png"]


def test_what_benchmarks_write_is_no_change_of_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.commit() == "unknown"
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    files = [tmp_path / "README.md", tmp_path / "benchmarks" / "results" / "cold.json", tmp_path / "train.py"]
    for file in files:
        file.write_text("one")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout
    for file, expected in zip(files, (head.strip(), head.strip(), f"{head.strip()}+changes")):
        file.write_text("two")
        assert results.commit() == expected


def test_a_ratio_is_to_the_lowest_of_the_others_round_by_round() -> None:
    def row(*rates: float) -> Row:
        return Row(name="", repeats=[Repeat(images=20, seconds=10 / rate, cpu_seconds=20 / rate) for rate in rates])

    ours, fast, slow = row(10, 5, 2.5), row(40, 40, 40), row(20, 10, 5)
    assert ours.over(fast, slow).tolist() == [0.5, 0.5, 0.5]
    assert ours.over(fast).tolist() == [0.25, 0.125, 0.0625]
    assert ours.over(fast, clock="seconds").tolist() == [0.25, 0.125, 0.0625]


def test_memory_that_was_freed_before_is_not_there_to_be_taken_again() -> None:
    blocks = [bytearray(4096) for _ in range(5000)]
    last = blocks.pop()  # keeps the heap's end, so that what is freed stays with the process
    blocks.clear()
    before = own_bytes()
    blocks = [bytearray(4096) for _ in range(5000)]
    assert 0.9 < (own_bytes() - before) / (len(blocks) * len(last)) < 1.3


def test_a_headline_is_beside_the_slowest_of_those_that_were_measured() -> None:
    ours, fast, slow = (
        Row(name=str(rate), repeats=[Repeat(images=rate, seconds=1, cpu_seconds=2)]) for rate in (9, 30, 10)
    )
    absent = Row(name="peer", missing="not installed")
    assert ours.headline("what", {"of both": [fast, slow, absent], "× peer": [absent]}) == {
        "what": "what",
        "images_per_second": 9,
        "beside": {"of both": 0.9},
    }
    with pytest.raises(ValueError, match="peer was not measured: not installed"):
        ours.over(absent)


def test_spread_keeps_three_figures() -> None:
    values = [in_words(np.array([m])) for m in (1234.5, 12.345, 0.62345)]
    assert values == ["1234 (1234–1234)", "12.3 (12.3–12.3)", "0.62 (0.62–0.62)"]
