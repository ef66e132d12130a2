"""Loaders doing the same work on the same bytes, side by side: `python -m benchmarks loader [--quick]`.

Question: how near to the decoder's limit does our loader come, in each of its modes, and how do others compare?
Enters: photographs (`data.py`), packed. Leaves: `loader.json`, `loader.md`, `loader.png`.
Each loader has a process of its own, takes turns with the others, and was compared with plain NumPy, pixel by pixel.
"""

import itertools
import time
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import data
from benchmarks.loader_work import RECIPE, SEED, Job, MeasuredLoader
from benchmarks.measure import Repeat, Row, interleave
from benchmarks.processes import held, hold, own_process
from benchmarks.results import Table
from dali_pipelines import DataConfig, Loader, cpu_producer
from sharding import ShardSet

SIZES = {False: (4096, 1024), True: (256, 128)}  # quick: samples, samples in a shard
RAW_SAMPLES = {False: 1024, True: 128}  # raw pixels, gone through several times: 200 MB on disk instead of 800


@dataclass(frozen=True)
class Entry:
    """A loader to measure: `module:function` of this package, which may raise ImportError, OSError or RuntimeError.

    note: what a reader of the table should know. compared: whether the pixels of its first batch are held against
    NumPy's. raw: it reads pixels in place of JPEG.
    """

    name: str
    loader: str
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    compared: bool = False
    raw: bool = False


ONE_THREAD = "limit: libjpeg-turbo (simplejpeg), one thread"
LIMIT = Entry(ONE_THREAD, "peers:decoding_limit", "decodes 256×256, no crop, nothing kept")
OURS = Entry("ours, float32", "peers:ours", compared=True)
RAW = Entry("ours, float32, raw shards", "peers:ours", compared=True, raw=True)
FFCV_RAW = Entry("FFCV, raw mode", "ffcv_peer:ffcv", "threads", compared=True, raw=True)
SIMPLEJPEG = Entry("torch DataLoader + simplejpeg", "peers:torch_simplejpeg", "worker processes", compared=True)
FFCV = Entry("FFCV", "ffcv_peer:ffcv", "threads", compared=True)
DALI_NOTE = "shuffles locally, no position to resume from; of 64 batches 3 were ready before the clock began"
PYTHON = Entry(
    "ours, uint8: ceiling of a process by the GIL",
    "loader:PythonTime",
    "of Python a sample: CPU time of an epoch (uint8, one decoding thread) but for that inside the compiled pass, "
    "which holds no GIL; an upper bound",
)
LOADERS = (
    LIMIT,
    OURS,
    Entry("ours, float32, window of 2 shards", "peers:ours", options={"window": 2}),
    Entry("ours, float32, whole graph in DALI", "peers:ours", options={"fused": False}),
    Entry("ours, uint8", "peers:ours", options={"output": "uint8"}),
    RAW,
    FFCV_RAW,
    Entry("ours, float32, GPU", "peers:ours", options={"device": "cuda"}),
    Entry("torch DataLoader + Pillow, as the seed", "peers:as_the_seed", "worker processes; planes", compared=True),
    SIMPLEJPEG,
    Entry("webdataset + simplejpeg", "peers:webdataset", "worker processes; shuffles locally", compared=True),
    FFCV,
    Entry("SPDL + simplejpeg", "peers:spdl", "threads", compared=True),
    Entry("DALI fn.readers.webdataset, as its tutorials", "peers:dali_tutorial", DALI_NOTE, compared=True),
    PYTHON,
)
PEERS = "benchmarks.peers"  # what the fork server imports

OPERATIONS = (
    "read a 256×256 JPEG, decode, random 224×224 crop, mirror with p ½, subtract the mean image's same crop, add PCA "
    "color noise (recipe `paper`); output float32 [128, 3, 224, 224], channels-last memory (planes where noted), "
    "0..255 scale, delivered to the main thread and dropped; 2 threads or 2 worker processes. `uint8`: decode, crop, "
    "mirror only. Limit: decode to 256×256 from memory, one thread. CPU time from the end of one repeat to the "
    "end of the next, children included; the wait is between asking for a batch and having it, with nothing else done."
)


def run(quick: bool) -> Table:
    """Measures all loaders."""
    samples, in_shard = SIZES[quick]
    jpeg = data.shards(samples, samples_per_shard=in_shard)
    raw = data.shards(RAW_SAMPLES[quick], encoding="raw", samples_per_shard=in_shard)
    data.made_once(jpeg.path.parent / "peers" / "files", partial(write_files, jpeg))
    with ExitStack() as stack:
        processes = {entry.name: stack.enter_context(own_process(PEERS)) for entry in LOADERS}
        made = {}
        for entry in LOADERS:
            split = raw if entry.raw else jpeg
            job = partial(Job, split.path, entry.options, epochs=samples // len(split))
            held_object = (PythonTime, jpeg.path) if entry is PYTHON else (MeasuredLoader, entry.loader, job)
            made[entry.name] = processes[entry.name].submit(hold, *held_object)
        rows = {entry.name: unmeasured(entry, processes[entry.name], made[entry.name]) for entry in LOADERS}
        able = [name for name, row in rows.items() if not row.missing]
        measured = interleave({name: partial(held, processes[name], "repeat") for name in able})
    rows |= {name: replace(rows[name], repeats=row.repeats) for name, row in measured.items()}
    python = rows[PYTHON.name]
    rows[PYTHON.name] = replace(python, note=f"{1e6 / np.median(python.rate('seconds')):.1f} µs {python.note}")
    others = {"of libjpeg-turbo's limit": LIMIT, "× FFCV": FFCV, "× torch's DataLoader with simplejpeg": SIMPLEJPEG}
    beside = {text: [rows[entry.name]] for text, entry in others.items()}
    return Table(
        title="Loaders: images per CPU-second for the same work",
        rows=list(rows.values()),
        data_set=data.describe(jpeg),
        operations=OPERATIONS,
        limit=LIMIT.name,
        ours=OURS.name,
        headlines=[rows[OURS.name].headline("float32 batches from the loader", beside)],
    )


def write_files(shards: ShardSet, folder: Path) -> None:
    """Each sample's JPEG bytes as `folder/000000.jpg` on."""
    folder.mkdir(exist_ok=True)
    for number, view in enumerate(shards.images(range(len(shards)))):
        (folder / f"{number:06d}.jpg").write_bytes(view.tobytes())


def unmeasured(entry: Entry, process: ProcessPoolExecutor, made: Future[None]) -> Row:
    """A loader's row without figures: how its pixels compare, or why it cannot run here."""
    try:
        made.result()
        compared = held(process, "compare") if entry.compared else ""
        return Row(name=entry.name, note="; ".join(filter(None, (compared, entry.note))))
    except ImportError as error:
        return Row(name=entry.name, missing=f"cannot be imported ({error}); `make bench-peers` installs it")
    except Exception as error:  # noqa: BLE001  whatever it is, the other loaders are measured
        return Row(name=entry.name, missing=(str(error).strip() or type(error).__name__).splitlines()[0])


class PythonTime:
    """Our loader; a repeat counts the CPU time in which its threads may hold the GIL, one decoding thread, uint8.

    That is all CPU time of the process in an epoch but what the thread spends inside the compiled pass, which lets the
    GIL go. Waking threads and page faults outside the pass count too, so it is an upper bound.
    """

    def __init__(self, split: Path, batch_size: int = 128) -> None:
        config = DataConfig(recipe=RECIPE, seed=SEED, batch_size=batch_size, output="uint8", threads=1)
        self._loader, self._epochs = Loader(ShardSet.open(split), config), itertools.count()

    def repeat(self) -> Repeat:
        """One epoch; its `seconds` are the CPU time of Python."""
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
        return Repeat(images=images, seconds=seconds, cpu_seconds=0)
