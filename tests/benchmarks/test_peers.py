"""The loaders of the benchmark do the same work: their pixels, from the processes that are timed, against NumPy.

A peer that is not installed must say so; the test then holds that it could not have run.
"""

import dataclasses
import importlib.util
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import data, loader
from benchmarks.loader import augmentation_rows, covariance_root
from benchmarks.peers import FFCV_RAW, LIMIT, OURS, PEERS, Entry
from benchmarks.peers.measured import MeasuredPeer, difference, difference_note, open_peer
from benchmarks.peers.work import ROW, AugmentationTable, Delivered, Job, Peer, made_once, write_files
from benchmarks.processes import Worker, WorkerError
from dali_pipelines import cpu_producer
from sharding import PackOptions, ShardSet, pack

pytestmark = pytest.mark.slow

SAMPLES, BATCH = 40, 8
INEXACT = {"FFCV": 4.0, "SPDL (FFmpeg)": 4.0}  # mean gray levels that another DCT or chroma filter may cost


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory, sample_photos: Path) -> ShardSet:
    out = tmp_path_factory.mktemp("peers")
    pack(PackOptions(source=sample_photos, out=out, split="train", samples_per_shard=SAMPLES // 2, workers=1))
    return ShardSet.open(out / "train")


@pytest.fixture(scope="module")
def job(split: ShardSet) -> Job:
    job = Job(split=split.path, prepared=split.path.parent / "made", batch_size=BATCH)
    made_once(job.files, partial(write_files, split))
    return job


@pytest.fixture
def started(split: ShardSet, job: Job) -> Iterator[Callable[..., Worker]]:
    """Starts the process of an entry, on the job or another one, and waits until it is ready."""
    with ExitStack() as stack:

        def start(entry: Entry, job: Job = job) -> Worker:
            rows, root = augmentation_rows(split), covariance_root(split.statistics)
            job = dataclasses.replace(job, options=entry.options)
            worker = stack.enter_context(Worker(entry.name, open_peer, entry, job, rows, root))
            worker.await_ready()
            return worker

        yield start


def expected(split: ShardSet, job: Job, number: int) -> np.ndarray:
    """By hand: decode with Pillow, crop picture and mean alike, mirror, add the color."""
    row = augmentation_rows(split)[number]
    pixels = np.asarray(Image.open(job.files / f"{number:06d}.jpg")).astype(np.float64)
    top, left = row["crop_y"], row["crop_x"]
    crop = (pixels - split.statistics.mean_image)[top : top + 224, left : left + 224]
    return (crop[:, ::-1] if row["mirror"] else crop) + row["rgb_offset"]


@pytest.mark.parametrize("entry", [entry for entry in (OURS, *PEERS) if not entry.raw], ids=lambda entry: entry.name)
def test_pixels_are_those_of_numpy_or_the_row_says_why_not(
    entry: Entry, started: Callable[..., Worker], split: ShardSet, job: Job
) -> None:
    worker = started(entry)
    if worker.missing:
        module = entry.loader.partition(":")[0]
        assert module in ("ffcv", "spdl"), worker.missing
        advice = "make bench-peers" in worker.missing, "apt-get install ffmpeg" in worker.missing
        assert advice == ((True, False) if importlib.util.find_spec(module) is None else (False, True))
        return
    pictures = worker.call("pictures", None)
    assert BATCH / 2 < len(pictures) <= BATCH  # FFCV goes through the samples several times in one epoch
    by_hand = {number: expected(split, job, number) for number in pictures}
    mean, largest = difference(pictures, by_hand)
    allowed = INEXACT.get(entry.name, 0.0)
    assert mean <= allowed or largest < 1e-2
    assert ("PIXELS DIFFER" in difference_note(pictures, by_hand)) == (allowed > 0)
    repeat = worker.call("repeat")
    assert repeat.images > 0 and repeat.images % BATCH == 0
    assert len(repeat.waits_seconds) == repeat.images // BATCH
    assert repeat.cpu_seconds > 0 and repeat.peak_bytes > 2**20


@pytest.mark.skipif(importlib.util.find_spec("ffcv") is None, reason="FFCV is not installed (make bench-peers)")
def test_ffcv_in_raw_mode_gives_the_pixels_of_raw_shards(
    started: Callable[..., Worker], split: ShardSet, sample_photos: Path, tmp_path: Path
) -> None:
    pack(PackOptions(source=sample_photos, out=tmp_path, split="train", encoding="raw", workers=1))
    with ShardSet.open(tmp_path / "train") as raw:
        worker = started(FFCV_RAW, Job(split=raw.path, prepared=tmp_path / "made", batch_size=BATCH))
        pictures, rows = worker.call("pictures", None), augmentation_rows(split)
        assert len(pictures) == BATCH
        for number, picture in pictures.items():
            top, left = rows[number]["crop_y"], rows[number]["crop_x"]
            crop = (raw.images([number])[0] - raw.statistics.mean_image)[top : top + 224, left : left + 224]
            crop = (crop[:, ::-1] if rows[number]["mirror"] else crop) + rows[number]["rgb_offset"]
            assert np.abs(picture - crop).max() < 1e-2


def test_the_limit_decodes_every_sample(started: Callable[..., Worker]) -> None:
    assert started(LIMIT).call("repeat").images == SAMPLES


def test_pictures_of_given_ids_from_a_whole_epoch(started: Callable[..., Worker], split: ShardSet, job: Job) -> None:
    ids = frozenset({0, 17, SAMPLES - 1})
    pictures = started(OURS).call("pictures", ids)
    assert set(pictures) == ids
    assert np.abs(pictures[17] - expected(split, job, 17)).max() < 1e-2


def test_a_peer_that_is_not_installed_is_a_reason(started: Callable[..., Worker]) -> None:
    worker = started(Entry("nobody's", "nobodys:Peer"))
    assert "nobodys" in worker.missing and "make bench-peers" in worker.missing


def test_a_process_that_dies_is_a_reason_with_its_last_line(
    started: Callable[..., Worker], job: Job, tmp_path: Path
) -> None:
    worker = started(LIMIT, dataclasses.replace(job, split=tmp_path / "nowhere"))
    assert LIMIT.name in worker.missing and "nowhere" in worker.missing and "ended with 1" in worker.missing
    with pytest.raises(WorkerError, match="process ended"):
        worker.call("repeat")


@pytest.mark.parametrize(("top", "left"), [(0, 0), (32, 32), (5, 11), (31, 0)])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_normalizer_against_numpy(top: int, left: int, mirror: bool, job: Job) -> None:
    random = np.random.default_rng(top)
    pixels = random.integers(0, 256, (256, 256, 3)).astype(np.uint8)
    rows = np.zeros(1, ROW)
    rows[0] = (top, left, mirror, (1.5, -2.25, 30.0))
    out = np.empty((1, 224, 224, 3), np.float32)
    peer = Peer(job, AugmentationTable(1, np.eye(3)))
    peer.normalize([b""], rows, out, lambda encoded, buffer: pixels)
    crop = (pixels.astype(np.float64) - peer.mean_image)[top : top + 224, left : left + 224]
    crop = (crop[:, ::-1] if mirror else crop) + np.array([1.5, -2.25, 30.0])
    np.testing.assert_allclose(out[0], crop, atol=1e-4)


def draw_in_child(table: AugmentationTable) -> None:
    table.draw(np.random.default_rng(7))


def test_a_table_is_drawn_over_its_whole_range_and_shared_with_forked_workers() -> None:
    root = np.array([[3.0, 0, 0], [1, 2, 0], [0, 0, 5]])
    table = AugmentationTable(20_000, root)
    assert not table.rows["crop_y"].any()
    process = multiprocessing.get_context("fork").Process(target=draw_in_child, args=(table,))
    process.start()
    process.join()
    rows = table.rows
    for name in ("crop_y", "crop_x"):
        assert (rows[name].min(), rows[name].max()) == (0, 32)
        assert abs(rows[name].mean() - 16) < 0.3
    assert abs(np.corrcoef(rows["crop_y"], rows["crop_x"])[0, 1]) < 0.03
    assert abs(rows["mirror"].mean() - 0.5) < 0.02
    np.testing.assert_allclose(np.cov(rows["rgb_offset"].T), root @ root.T, atol=0.8)


class Counted(Peer):
    """Three batches of 4, 4 and 2 an epoch; the first is ready before it is asked for."""

    ahead = 1

    def epoch(self) -> Iterator[Delivered]:
        for size in (4, 4, 2):
            yield Delivered(images=torch.zeros(size, 3, 1, 1), ids=torch.arange(size))


def test_batches_that_were_ready_are_not_counted(job: Job) -> None:
    table = AugmentationTable(10, np.eye(3))
    measured = MeasuredPeer(Counted(job, table), table, epochs=2)
    repeat = measured.repeat()
    assert repeat.images == 16
    assert len(repeat.waits_seconds) == 5
    assert repeat.cpu_seconds > 0


def test_python_time_is_a_part_of_the_epochs_cpu_time_and_leaves_the_loader_as_it_was(job: Job) -> None:
    place_pictures = cpu_producer.place_pictures
    python = loader.PythonTime(job)
    start = time.process_time()
    repeat = python.repeat()
    spent = time.process_time() - start
    assert repeat.images == SAMPLES and 0 < repeat.cpu_seconds < spent
    assert cpu_producer.place_pictures is place_pictures


def test_difference_of_pictures() -> None:
    ours = {3: np.zeros((2, 2, 3)), 5: np.full((2, 2, 3), 10.0), 7: np.ones((2, 2, 3))}
    theirs = {3: np.zeros((2, 2, 3)), 5: np.full((2, 2, 3), 10.0)}
    assert difference_note(theirs, ours) == "same pixels"
    theirs[5][0, 0, 0] -= 6
    assert difference(theirs, ours) == (6 / 24, 6)
    assert difference_note(theirs, ours) == "PIXELS DIFFER by 0.25 gray levels, at most 6"


def test_what_is_made_once_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    made_once(path, lambda part: part.write_text("first") and None)
    made_once(path, lambda part: part.write_text("second") and None)
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_files_hold_the_shards_bytes(split: ShardSet, job: Job) -> None:
    assert sorted(path.name for path in job.files.iterdir()) == [f"{number:06d}.jpg" for number in range(SAMPLES)]
    assert job.read(SAMPLES - 1) == split.images([SAMPLES - 1])[0].tobytes()


def test_quick_run_publishes_every_row_with_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = (PEERS[1], Entry("nobody's", "nobodys:Peer"))
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    monkeypatch.setattr(loader, "MODES", (OURS,))
    monkeypatch.setattr(loader, "PEERS", peers)
    loader.run(quick=True, out=tmp_path / "out")
    document = json.loads((tmp_path / "out" / "loader.json").read_text())
    rows = {row["name"]: row for row in document["rows"]}
    names = [
        LIMIT.name,
        OURS.name,
        loader.RAW.name,
        loader.FFCV_RAW.name,
        loader.GPU.name,
        *(peer.name for peer in peers),
        loader.PYTHON,
    ]
    assert list(rows) == names
    assert rows[LIMIT.name]["to_limit"]["median"] == 1 and rows[OURS.name]["to_ours"]["median"] == 1
    assert rows[peers[0].name]["note"].startswith("same pixels")
    assert "make bench-peers" in rows["nobody's"]["missing"]
    for name in (LIMIT.name, OURS.name, loader.RAW.name, peers[0].name):
        row = rows[name]
        assert (row["repeats"], row["images"]) == (5, 256)
        assert 0 < row["to_limit"]["low"] <= row["to_limit"]["median"] <= row["to_limit"]["high"]
        assert row["wait_p99_seconds"] > 0 and row["peak_bytes"] > 2**20
    ceiling = rows[loader.PYTHON]
    assert ceiling["images_per_second"]["low"] > 0 and "µs of Python a sample" in ceiling["note"]
    assert ceiling["images_per_cpu_second"] is None and ceiling["to_limit"] is None  # no rate of work
    assert document["data_set"]["samples"] == 256 and document["quick"] is True
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".md", ".png"}
