"""Loaders doing the same work on the same bytes, side by side: `python -m benchmarks loader [--quick]`.

Question: how near to the decoder's limit does our loader come, in each of its modes, and how do others compare?
Enters: photographs (`data.py`), packed. Leaves: `loader.json`, `loader.md`, `loader.png`.
Each loader has a process of its own, takes turns with the others, and was compared with ours, pixel by pixel.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks import data
from benchmarks.measure import Case, interleave
from benchmarks.peers import GPU, LIMIT, MODES, OURS, PEERS, RAW
from benchmarks.peers.ours import RECIPE, SEED
from benchmarks.peers.process import Difference, LoaderProcess, Nursery, PeerError, Pictures
from benchmarks.peers.work import ROW, Job, write_files
from benchmarks.results import write_tables
from dali_pipelines.augmentation import draw
from sharding import ShardSet, Statistics

SIZES = {False: (4096, 1024), True: (256, 128)}  # quick: samples, samples in a shard
RAW_SAMPLES = {False: 1024, True: 128}  # raw pixels, gone through several times: 200 MB on disk instead of 800

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
    write_files(jpeg, job.files)
    plan, root = plan_rows(jpeg), covariance_root(jpeg.statistics)
    with tempfile.TemporaryDirectory() as scratch, Nursery(Path(scratch)) as nursery:
        processes = [
            nursery.start(
                entry,
                dataclasses.replace(raw_job if entry is RAW else job, module=entry.module, options=entry.options),
                plan,
                root,
            )
            for entry in (LIMIT, *MODES, RAW, GPU, *PEERS)
        ]
        for process in processes:
            process.await_ready()
        compare(processes)
        rows = interleave([case_of(process) for process in processes])
    write_tables(
        "loader",
        rows,
        out=out,
        title="Loaders: images per CPU-second for the same work",
        data_set=data.describe(jpeg),
        operations=OPERATIONS,
        cache="warm page cache",
        quick=quick,
    )


def covariance_root(statistics: Statistics) -> np.ndarray:
    """[3, 3]: three N(0, 1) deviates → gray levels of R, G, B, as `paper`'s noise has it (Krizhevsky 2012 §4.1)."""
    return statistics.eigenvectors * (0.1 * statistics.eigenvalues / 255)


def plan_rows(shards: ShardSet) -> np.ndarray:
    """What our loader does to each sample in epoch 0, as the peers' `Plan` has it."""
    ids = np.arange(len(shards))
    ours = draw(RECIPE, SEED, 0, ids, ids, shards.statistics)
    rows = np.empty(len(ids), ROW)
    for name in ROW.names or ():
        rows[name] = getattr(ours, name)
    return rows


def compare(processes: Sequence[LoaderProcess]) -> None:
    """Holds a part of each peer's first batch against ours of the same ids, crops, mirrors and colors."""
    able = [process for process in processes if process.entry.compared and not process.missing]
    with ThreadPoolExecutor() as pool:
        theirs = dict(zip([process.entry.name for process in able], pool.map(pictures_or_missing, able)))
    ours = next(process for process in processes if process.entry is OURS)
    pictures = ours.pictures(frozenset().union(*theirs.values()))
    for process in able:
        if not process.missing:
            process.difference = str(Difference.between(theirs[process.entry.name], pictures))


def pictures_or_missing(process: LoaderProcess) -> Pictures:
    """The process's pictures; where it dies over them, none, and it is missing."""
    try:
        return process.pictures()
    except PeerError as error:
        process.missing = str(error)
        return {}


def case_of(process: LoaderProcess) -> Case:
    """The benchmark's case of a loader's process."""
    entry = process.entry
    return Case(
        name=entry.name,
        repeat=None if process.missing else process.repeat,
        missing=process.missing,
        reference=entry.reference,
        note=process.note,
        details={"module": f"benchmarks.peers.{entry.module}", "options": entry.options},
    )
