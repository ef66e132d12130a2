"""Loaders doing the same work on the same bytes, side by side: `python -m benchmarks loader [--quick]`.

Question: how near to the decoder's limit does our loader come, in each of its modes, and how do others compare?
Enters: photographs (`data.py`), packed. Leaves: `loader.json`, `loader.md`, `loader.png`.
Each loader has a process of its own, takes turns with the others, and was compared with ours, pixel by pixel.
"""

import dataclasses
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import data
from benchmarks.measure import Case, Repeat, Row, interleave
from benchmarks.peers import FFCV_RAW, GPU, LIMIT, MODES, OURS, PEERS, RAW, Entry
from benchmarks.peers.measured import Pictures, difference_note, open_peer
from benchmarks.peers.ours import RECIPE, SEED
from benchmarks.peers.work import ROW, Job, made_once, write_files
from benchmarks.processes import Worker, WorkerError
from benchmarks.results import write_tables
from dali_pipelines import DataConfig, Loader, cpu_producer
from dali_pipelines.augmentation import draw
from sharding import ShardSet, Statistics

SIZES = {False: (4096, 1024), True: (256, 128)}  # quick: samples, samples in a shard
RAW_SAMPLES = {False: 1024, True: 128}  # raw pixels, gone through several times: 200 MB on disk instead of 800

PYTHON = "ours, uint8: ceiling of a process by the GIL"

OPERATIONS = (
    "read a 256×256 JPEG, decode, random 224×224 crop, mirror with p ½, subtract the mean image's same crop, add PCA "
    "color noise (recipe `paper`); output float32 [128, 3, 224, 224], channels-last memory (planes where noted), "
    "0..255 scale, delivered to the main thread and dropped; 2 threads or 2 worker processes. `uint8`: decode, crop, "
    "mirror only. Limit: decode to 256×256 from memory, one thread. CPU time from the end of one repeat to the "
    "end of the next, children included; peak memory is the sum of each process's own peak (shared pages count in "
    "each); the wait is between asking for a batch and having it, with nothing done in between."
)


def run(quick: bool, out: Path) -> None:
    """Measures all loaders and publishes the table."""
    samples, in_shard = SIZES[quick]
    jpeg = data.shards(samples, samples_per_shard=in_shard)
    raw = data.shards(RAW_SAMPLES[quick], encoding="raw", samples_per_shard=in_shard)
    job = Job(split=jpeg.path, prepared=jpeg.path.parent / "peers")
    raw_job = dataclasses.replace(job, split=raw.path, epochs=samples // len(raw))
    made_once(job.files, partial(write_files, jpeg))
    rows, root = augmentation_rows(jpeg), covariance_root(jpeg.statistics)
    with ExitStack() as stack:
        loaders = []
        for entry in (LIMIT, *MODES, RAW, FFCV_RAW, GPU, *PEERS):
            entry_job = dataclasses.replace(raw_job if entry.raw else job, options=entry.options)
            worker = stack.enter_context(Worker(entry.name, open_peer, entry, entry_job, rows, root))
            loaders.append((entry, worker))
        python = stack.enter_context(Worker(PYTHON, PythonTime, job))
        for worker in (*(worker for _, worker in loaders), python):
            worker.await_ready()
        differences = compare(loaders)
        cases = [case_of(entry, worker, differences.get(entry.name, "")) for entry, worker in loaders]
        *measured, python_row = interleave([*cases, Case(name=PYTHON, repeat=lambda: python.call("repeat"))])
    others = {
        "of libjpeg-turbo's limit": LIMIT.name,
        "× FFCV": "FFCV",
        "× torch's DataLoader with simplejpeg": "torch DataLoader + simplejpeg",
    }
    beside = {text: [row for row in measured if row.name == name] for text, name in others.items()}
    ours = next(row for row in measured if row.name == OURS.name)
    write_tables(
        "loader",
        [*measured, as_ceiling(python_row)],
        headlines=[ours.headline("float32 batches from the loader", beside)],
        out=out,
        title="Loaders: images per CPU-second for the same work",
        data_set=data.describe(jpeg),
        operations=OPERATIONS,
        quick=quick,
    )


class PythonTime:
    """Our loader; a repeat counts the CPU time in which its threads may hold the GIL, one decoding thread, uint8.

    That is all CPU time of the process in an epoch but what the thread spends inside the compiled pass, which lets the
    GIL go. Waking threads and page faults outside the pass count too, so it is an upper bound.
    """

    def __init__(self, job: Job) -> None:
        config = DataConfig(recipe=RECIPE, seed=SEED, batch_size=job.batch_size, output="uint8", threads=1)
        self._loader, self._epochs = Loader(job.shards(), config), itertools.count()

    def repeat(self) -> Repeat:
        """One epoch; both clocks are the CPU time of Python."""
        place_pictures, compiled_seconds = cpu_producer.place_pictures, 0.0

        def timed(*arguments: Any) -> None:
            nonlocal compiled_seconds
            start = time.thread_time()
            place_pictures(*arguments)
            compiled_seconds += time.thread_time() - start
            place_pictures(*arguments)  # no picture is left: what the call itself costs, and with the GIL, counts

        with mock.patch.object(cpu_producer, "place_pictures", timed):
            start = time.process_time()
            images = sum(len(batch.ids) for batch in self._loader.epoch(next(self._epochs)))
            seconds = time.process_time() - start - compiled_seconds
        return Repeat(images=images, seconds=seconds, cpu_seconds=seconds)


def as_ceiling(row: Row) -> Row:
    """The row of `PythonTime`: images/s that one process cannot pass on any number of cores, and no rate of work."""
    note = (
        f"{1e6 / row.rate().median:.1f} µs of Python a sample: CPU time of an epoch (uint8, one decoding thread) but "
        "for that inside the compiled pass, which holds no GIL; an upper bound"
    )
    return dataclasses.replace(row, note=note, images_per_cpu_second=None, to_limit=None, to_ours=None)


def covariance_root(statistics: Statistics) -> np.ndarray:
    """[3, 3]: three N(0, 1) deviates → gray levels of R, G, B, as `paper`'s noise has it (Krizhevsky 2012 §4.1)."""
    return statistics.eigenvectors * (0.1 * statistics.eigenvalues / 255)


def augmentation_rows(shards: ShardSet) -> np.ndarray:
    """What our loader does to each sample in epoch 0, as rows of the peers' `AugmentationTable`."""
    ids = np.arange(len(shards))
    ours = draw(RECIPE, SEED, 0, ids, ids, shards.statistics)
    rows = np.empty(len(ids), ROW)
    for name in ROW.names or ():
        rows[name] = getattr(ours, name)
    return rows


def compare(loaders: list[tuple[Entry, Worker]]) -> dict[str, str]:
    """Holds a part of each peer's first batch against ours of the same ids, crops, mirrors and colors."""
    able = {entry.name: worker for entry, worker in loaders if entry.compared and not worker.missing}
    with ThreadPoolExecutor() as pool:
        theirs = dict(zip(able, pool.map(first_pictures, able.values())))
    ours = next(worker for entry, worker in loaders if entry is OURS)
    pictures = ours.call("pictures", frozenset().union(*theirs.values()))
    return {name: difference_note(found, pictures) for name, found in theirs.items() if found}


def first_pictures(worker: Worker) -> Pictures:
    """Pictures of the worker's first batch; none where it dies over them, which its row then says."""
    try:
        return worker.call("pictures", None)
    except WorkerError:
        return {}


def case_of(entry: Entry, worker: Worker, difference: str) -> Case:
    """The benchmark's case of a loader's process."""
    return Case(
        name=entry.name,
        repeat=None if worker.missing else lambda: worker.call("repeat"),
        missing=worker.missing,
        reference=entry.reference,
        note="" if worker.missing else "; ".join(part for part in (difference, worker.call("note")) if part),
        details={"loader": f"benchmarks.peers.{entry.loader}", "options": entry.options},
    )
