"""Interleaved repeats → rows with their rates and ratios: what every benchmark here measures with.

Enters: works, each a function that does one repeat of it and returns what it measured. Leaves: a row for each.

Each work is done once to warm up; then all take turns, so that a noisy neighbor disturbs all of them
alike. CPU time counts this process, its threads and its children, living or gone.
"""

import ctypes
import os
import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

MINIMUM_REPEATS = 5
Clock = Literal["seconds", "cpu_seconds"]


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One repeat of a work: `images` done in `seconds` wall and `cpu_seconds` of CPU, all processes summed.

    cpu_seconds is 0 where that is not what the work costs, and the waits for batches where they were not looked at.
    """

    images: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int = 0
    waited_seconds: float = 0
    wait_p99_seconds: float = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """The repeats of a work, or in `missing` why it was not done."""

    name: str
    repeats: Sequence[Repeat] = ()
    note: str = ""
    missing: str = ""

    def rate(self, clock: Clock = "cpu_seconds") -> np.ndarray:
        """Images per second of a clock, repeat by repeat; none where that clock was not looked at."""
        return np.array([repeat.images / spent for repeat in self.repeats if (spent := getattr(repeat, clock))])

    def over(self, *others: "Row", clock: Clock = "cpu_seconds") -> np.ndarray:
        """Its rate as a ratio to the lowest of the others', each of repeats made side by side.

        Raises ValueError if one of them was not measured.
        """
        for row in (self, *others):
            if not row.repeats:
                raise ValueError(f"{row.name} was not measured: {row.missing}")
        return self.rate(clock) / np.min([other.rate(clock) for other in others], axis=0)

    def headline(self, what: str, beside: dict[str, list["Row"]], clock: Clock = "cpu_seconds") -> dict[str, object]:
        """A figure for the README: images/s, and the ratio to the slowest of those rows that were measured."""
        measured = {text: [row for row in rows if row.repeats] for text, rows in beside.items()}
        ratios = {text: float(np.median(self.over(*rows, clock=clock))) for text, rows in measured.items() if rows}
        return {"what": what, "images_per_second": float(np.median(self.rate("seconds"))), "beside": ratios}


def interleave(
    works: Mapping[str, Callable[[], Repeat]], repeats: int = MINIMUM_REPEATS, warm_ups: int = 1
) -> dict[str, Row]:
    """Does all works (one repeat each) to warm up, then in turn `repeats` times. Rows by name, in the works' order."""
    measured: dict[str, list[Repeat]] = {name: [] for name in works}
    for round_number in range(-warm_ups, repeats):
        for name, work in works.items():
            repeat = work()
            if round_number >= 0:
                measured[name].append(repeat)
    return {name: Row(name=name, repeats=repeats) for name, repeats in measured.items()}


def waits(seconds: Sequence[float]) -> dict[str, float]:
    """What a `Repeat` says of the waits for its batches."""
    p99 = float(np.quantile(seconds, 0.99, method="inverted_cdf"))
    return {"waited_seconds": sum(seconds), "wait_p99_seconds": p99}


def timed(work: Callable[[], int]) -> Repeat:
    """Runs `work`, which returns the number of images it did, and measures it from outside.

    Memory is looked at five times a second, since a child that has ended is not seen any more.
    """
    peaks, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.2):
            peaks.append(peak_bytes())

    forget_peaks()
    watch = threading.Thread(target=look)
    watch.start()
    try:
        cpu_before, start = cpu_seconds(), time.perf_counter()
        images = work()
        seconds = time.perf_counter() - start
        spent = cpu_seconds() - cpu_before
    finally:
        done.set()
        watch.join()
    return Repeat(images=images, seconds=seconds, cpu_seconds=spent, peak_bytes=max(*peaks, peak_bytes()))


def family(root: int | None = None) -> list[int]:
    """Process ids of a process (this one) and its living children, their children included (Linux /proc)."""
    found = [root or os.getpid()]
    for parent in found:  # grows meanwhile
        for thread in Path(f"/proc/{parent}/task").glob("*"):
            found += map(int, _proc(parent, f"task/{thread.name}/children").split())
    return found


def _proc(pid: int, file: str) -> str:
    """The text of /proc/PID/FILE; nothing where the process, or the thread, has ended since it was listed."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _status_bytes(pid: int, key: str) -> int:
    lines = dict(line.split(":", 1) for line in _proc(pid, "status").splitlines())
    return int(lines[key].split()[0]) * 1024 if key in lines else 0


def doubling(most: int) -> list[int]:
    """1, 2, 4, … below `most`, and `most`."""
    return sorted({most, *(2**power for power in range(10) if 2**power < most)})


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process, its ended children and its living descendants."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = (_proc(pid, "stat").rpartition(")")[2].split()[11:15] for pid in family()[1:])
    ticks = sum(int(value) for fields in living for value in fields)  # with what their own ended children took
    return time.process_time() + ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def peak_bytes() -> int:
    """Peak resident memory: the sum over this process and its living descendants of each one's own peak."""
    return sum(_status_bytes(pid, "VmHWM") for pid in family())


def forget_peaks() -> None:
    """Sets the kernel's peak of resident memory, of this process and its children, to what it is now."""
    for pid in family():
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def own_bytes() -> int:
    """Resident memory of this process that belongs to it alone; pages of mapped files do not count.

    What was freed goes back to the system first: a process that was forked from one that had done much would else take
    what that one had left, and seem to need nothing.
    """
    ctypes.CDLL(None).malloc_trim(0)
    return _status_bytes(os.getpid(), "RssAnon")
