"""The loaders of the benchmark do the same work: their pixels, from the processes that are timed, against NumPy.

A peer that is not installed must say so; the test then holds that it could not have run.
"""

import importlib.util
import json
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import data, loader, loader_work
from benchmarks.data import made_once
from benchmarks.loader import (
    FFCV,
    FFCV_RAW,
    LIMIT,
    LOADERS,
    OURS,
    RAW,
    SIMPLEJPEG,
    Entry,
    unmeasured,
    write_files,
)
from benchmarks.loader_work import ROW, Batch, Job, MeasuredLoader
from benchmarks.measure import Row
from benchmarks.processes import held, hold, own_process
from dali_pipelines import cpu_producer
from dali_pipelines.augmentation import draw
from sharding import PackOptions, ShardSet, pack

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("loaders")]  # a fork server of their own

SAMPLES, BATCH = 40, 8
INEXACT = 4.0  # mean gray levels that another DCT may cost


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """The fork server imports FFCV once, which compiles for seconds then; without FFCV it goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "PEERS", "benchmarks.ffcv_peer")
        yield


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory, sample_photos: Path) -> ShardSet:
    out = tmp_path_factory.mktemp("peers")
    pack(PackOptions(source=sample_photos, out=out, split="train", samples_per_shard=SAMPLES // 2, workers=1))
    return ShardSet.open(out / "train")


def make_job(split: Path, options: dict[str, Any] | None = None, epochs: int = 1) -> Job:
    return Job(split, options or {}, BATCH, epochs)


@pytest.fixture(scope="module")
def job(split: ShardSet) -> Job:
    job = make_job(split.path)
    made_once(job.prepared / "files", partial(write_files, split))
    return job


@pytest.fixture
def started(job: Job) -> Iterator["Start"]:
    """Starts the process of an entry, on the job's split or another one; returns it and what is known of it then."""
    with ExitStack() as stack:

        def start(entry: Entry, split: Path = job.split) -> tuple[ProcessPoolExecutor, Row]:
            make = partial(Job, split, entry.options, BATCH)
            process = stack.enter_context(own_process(loader.PEERS))
            made = process.submit(hold, MeasuredLoader, entry.loader, make)
            return process, unmeasured(entry, process, made)

        yield start


def test_what_is_expected_is_what_pillow_and_numpy_make(split: ShardSet, job: Job) -> None:
    for number in (0, 17, SAMPLES - 1):
        row = draw("paper", 2012, 0, np.array([number]), np.array([number]), split.statistics)
        pixels = np.asarray(Image.open(job.file(number))).astype(np.float64)
        top, left = row.crop_y[0], row.crop_x[0]
        crop = (pixels - split.statistics.mean_image)[top : top + 224, left : left + 224]
        by_hand = (crop[:, ::-1] if row.mirror[0] else crop) + row.rgb_offset[0]
        np.testing.assert_allclose(job.expected(number), by_hand, atol=1e-9)


Start = Callable[..., tuple[ProcessPoolExecutor, Row]]
COMPARED = [entry for entry in LOADERS if entry.compared and not entry.raw and entry is not FFCV]  # FFCV: the quick run


@pytest.mark.parametrize("entry", COMPARED, ids=lambda entry: entry.name)
def test_pixels_are_those_of_numpy_or_the_row_says_why_not(entry: Entry, started: Start) -> None:
    process, row = started(entry)
    if row.missing:
        assert entry.loader == "peers:spdl" and importlib.util.find_spec("spdl") is None, row.missing
        assert "make bench-peers" in row.missing
        return
    assert row.note.startswith("same pixels")
    repeat = held(process, "repeat")
    assert repeat.images > 0 and repeat.images % BATCH == 0
    assert 0 < repeat.wait_p99_seconds <= repeat.waited_seconds <= repeat.seconds
    assert repeat.cpu_seconds > 0 and repeat.peak_bytes > 2**20


def test_the_limit_decodes_every_sample(started: Start) -> None:
    process, row = started(LIMIT)
    assert held(process, "repeat").images == SAMPLES and row.note == LIMIT.note


def test_a_loader_that_cannot_run_is_a_reason(started: Start, tmp_path: Path) -> None:
    _, row = started(Entry("nobody's", "nobodys:loader"))
    assert "nobodys" in row.missing and "make bench-peers" in row.missing
    _, row = started(LIMIT, tmp_path / "nowhere")
    assert row.missing.startswith(f"{tmp_path}/nowhere") and not row.note


def test_a_process_that_dies_is_a_reason_too(started: Start) -> None:
    process, _ = started(LIMIT)
    made = process.submit(os._exit, 1)
    assert "process" in unmeasured(LIMIT, process, made).missing


@pytest.mark.parametrize(("top", "left"), [(0, 0), (32, 32), (5, 11), (31, 0)])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_normalizer_against_numpy(top: int, left: int, mirror: bool, job: Job) -> None:
    random = np.random.default_rng(top)
    pixels = random.integers(0, 256, (256, 256, 3)).astype(np.uint8)
    rows = np.zeros(1, ROW)
    rows[0] = (top, left, mirror, (1.5, -2.25, 30.0))
    out = np.empty((1, 224, 224, 3), np.float32)
    job.normalize([b""], rows, out, lambda encoded, buffer: pixels)
    crop = (pixels.astype(np.float64) - job.mean_image)[top : top + 224, left : left + 224]
    crop = (crop[:, ::-1] if mirror else crop) + np.array([1.5, -2.25, 30.0])
    np.testing.assert_allclose(out[0], crop, atol=1e-4)


def draw_in_child(job: Job) -> None:
    job.draw(7)


def test_rows_are_what_our_loader_does_in_an_epoch_and_shared_with_forked_workers(job: Job) -> None:
    own = make_job(job.split)
    ids = np.arange(SAMPLES)
    for epoch in (0, 7):
        if epoch:
            process = multiprocessing.get_context("fork").Process(target=draw_in_child, args=(own,))
            process.start()
            process.join()
        ours = draw("paper", 2012, epoch, ids, ids, job.shards.statistics)
        for name in ROW.names or ():
            np.testing.assert_array_equal(own.rows[name], getattr(ours, name))


def test_a_repeat_counts_the_batches_of_all_its_epochs(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def epoch() -> Iterator[Batch]:
        for size in (4, 4, 2):
            yield torch.zeros(size, 3, 1, 1), torch.arange(size)

    monkeypatch.setattr(loader, "counted", lambda job: epoch, raising=False)
    repeat = MeasuredLoader("loader:counted", lambda: make_job(job.split, epochs=2)).repeat()
    assert repeat.images == 20
    assert 0 < repeat.wait_p99_seconds <= repeat.waited_seconds <= repeat.seconds
    assert repeat.cpu_seconds > 0


def test_a_difference_is_that_of_the_first_batchs_pictures(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pixels of one of two pictures are off by 6; the second batch is not looked at."""

    def epoch() -> Iterator[Batch]:
        pictures = np.stack([job.expected(3), job.expected(5) + 6])
        yield torch.from_numpy(pictures).permute(0, 3, 1, 2), torch.tensor([3, 5])
        yield torch.zeros(2, 3, 224, 224), torch.tensor([0, 1])

    monkeypatch.setattr(loader, "off", lambda job: epoch, raising=False)
    monkeypatch.setattr(loader_work, "COMPARED", 2)
    assert MeasuredLoader("loader:off", lambda: job).compare() == "PIXELS DIFFER by 3.00 gray levels, at most 6"


def test_python_time_is_a_part_of_the_epochs_cpu_time_and_leaves_the_loader_as_it_was(job: Job) -> None:
    place_pictures = cpu_producer.place_pictures
    python = loader.PythonTime(job.split, BATCH)
    start = time.process_time()
    repeat = python.repeat()
    spent = time.process_time() - start
    assert repeat.images == SAMPLES and 0 < repeat.seconds < spent and repeat.cpu_seconds == 0
    assert cpu_producer.place_pictures is place_pictures


def test_what_is_made_once_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    made_once(path, lambda part: part.write_text("first") and None)
    made_once(path, lambda part: part.write_text("second") and None)
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_files_hold_the_shards_bytes(split: ShardSet, job: Job) -> None:
    assert sorted(path.name for path in (job.prepared / "files").iterdir()) == [
        f"{number:06d}.jpg" for number in range(SAMPLES)
    ]
    assert job.read(SAMPLES - 1) == split.images([SAMPLES - 1])[0].tobytes()


def test_quick_run_publishes_every_row_with_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobodys = Entry("nobody's", "nobodys:loader")
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    monkeypatch.setattr(loader, "LOADERS", (LIMIT, OURS, RAW, FFCV_RAW, SIMPLEJPEG, FFCV, nobodys, loader.PYTHON))
    loader.run(quick=True).publish("loader", True, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "loader.json").read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == [entry.name for entry in loader.LOADERS]
    assert (document["limit"], document["ours"]) == (LIMIT.name, OURS.name)
    absent = [nobodys] if importlib.util.find_spec("ffcv") else [FFCV, FFCV_RAW, nobodys]
    for entry in loader.LOADERS[:-1]:
        row = rows[entry.name]
        if entry in absent:
            assert "make bench-peers" in row["missing"]
            continue
        assert [repeat["images"] for repeat in row["repeats"]] == [256] * 5
        assert all(repeat[name] > 0 for repeat in row["repeats"] for name in ("seconds", "cpu_seconds"))
        assert all(repeat["wait_p99_seconds"] > 0 and repeat["peak_bytes"] > 2**20 for repeat in row["repeats"])
        if entry is FFCV:
            difference = re.match(r"PIXELS DIFFER by (\d\.\d\d) gray levels", row["note"])
            assert difference and float(difference[1]) < INEXACT
        elif entry.compared:
            assert row["note"].startswith("same pixels")
    ceiling = rows[loader.PYTHON.name]
    assert all(repeat["seconds"] > 0 for repeat in ceiling["repeats"]) and "µs of Python a sample" in ceiling["note"]
    assert not any(repeat["cpu_seconds"] for repeat in ceiling["repeats"])  # no rate of work
    assert document["data_set"]["samples"] == 256 and document["quick"] is True
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".md", ".png"}
