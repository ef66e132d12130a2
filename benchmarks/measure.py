"""Interleaved repeats → rows of medians and spreads: what every benchmark here measures with.

Enters: works, each a function that does one repeat of it and returns what it measured.
Leaves: rows (images/s, images per CPU-second, ratios, peak memory, p99 wait for a batch).

Each work is done once to warm up; then all take turns, so that a noisy neighbor disturbs all of them
alike. CPU time counts this process, its threads and its children, living or gone.
"""

import ctypes
import math
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

MINIMUM_REPEATS = 5
Clock = Literal["images_per_second", "images_per_cpu_second"]


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One repeat of a work: `images` done in `seconds` wall and `cpu_seconds` of CPU, all processes summed."""

    images: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int = 0
    waits_seconds: tuple[float, ...] = ()


Work = Callable[[], Repeat]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, lowest and highest of the repeats, and each one's value."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median=statistics.median(values), low=min(values), high=max(values), values=tuple(values))

    def over(self, *others: "Spread") -> "Spread":
        """Round by round: the ratio to the lowest of the others'."""
        return Spread.of([value / min(rest) for value, *rest in zip(self.values, *(other.values for other in others))])

    def __str__(self) -> str:
        """`median (low–high)` with digits that fit the size."""
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a work gave, or in `missing` why it was not done.

    Ratios are medians of the ratios of repeats made side by side, per CPU-second.
    """

    name: str
    note: str = ""
    missing: str = ""
    repeats: int = 0
    images: int = 0
    images_per_second: Spread | None = None
    images_per_cpu_second: Spread | None = None
    to_limit: Spread | None = None
    to_ours: Spread | None = None
    peak_bytes: int = 0
    wait_p99_seconds: float | None = None
    details: dict[str, object] = field(default_factory=dict)

    def rate(self, clock: Clock = "images_per_cpu_second") -> Spread:
        """The row's rate on a clock. Raises ValueError for a row that was not measured."""
        spread: Spread | None = getattr(self, clock)
        if spread is None:
            raise ValueError(f"{self.name} was not measured: {self.missing}")
        return spread

    def headline(self, what: str, beside: dict[str, list["Row"]], clock: Clock = "images_per_cpu_second") -> dict:
        """A figure for the README: images/s, and the ratio to the slowest of those rows that were measured."""
        measured = {text: [row.rate(clock) for row in rows if row.repeats] for text, rows in beside.items()}
        ratios = {text: self.rate(clock).over(*rates).median for text, rates in measured.items() if rates}
        return {"what": what, "images_per_second": self.rate("images_per_second").median, "beside": ratios}

    def measured(self, repeats: Sequence[Repeat]) -> "Row":
        """This row with what the repeats gave, without ratios."""
        waits = sorted(wait for repeat in repeats for wait in repeat.waits_seconds)
        return replace(
            self,
            repeats=len(repeats),
            images=repeats[0].images,
            images_per_second=Spread.of([repeat.images / repeat.seconds for repeat in repeats]),
            images_per_cpu_second=Spread.of([repeat.images / repeat.cpu_seconds for repeat in repeats]),
            peak_bytes=max(repeat.peak_bytes for repeat in repeats),
            wait_p99_seconds=waits[math.ceil(0.99 * len(waits)) - 1] if waits else None,
        )


def interleave(
    works: Mapping[str, Work], repeats: int = MINIMUM_REPEATS, warm_ups: int = 1, *, limit: str = "", ours: str = ""
) -> dict[str, Row]:
    """Does all works (one repeat each) to warm up, then in turn `repeats` times. A row for each, by name, same order.

    limit, ours: names of the rows that the others are divided by.
    """
    measured: dict[str, list[Repeat]] = {name: [] for name in works}
    for round_number in range(-warm_ups, repeats):
        for name, work in works.items():
            repeat = work()
            if round_number >= 0:
                measured[name].append(repeat)
    rows = {name: Row(name=name).measured(repeats) for name, repeats in measured.items()}
    for name, row in rows.items():
        to_limit, to_ours = (row.rate().over(rows[base].rate()) if base else None for base in (limit, ours))
        rows[name] = replace(row, to_limit=to_limit, to_ours=to_ours)
    return rows


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


def descendants(of: int | None = None) -> list[int]:
    """Process ids of the living children of a process (this one), their children included (Linux /proc)."""
    found, queue = [], [of or os.getpid()]
    while queue:
        parent = queue.pop()
        threads = [path.name for path in Path(f"/proc/{parent}/task").glob("*")]
        children = [int(pid) for thread in threads for pid in _proc(parent, f"task/{thread}/children").split()]
        found += children
        queue += children
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


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def doubling(most: int) -> list[int]:
    """1, 2, 4, … below `most`, and `most`."""
    return sorted({most, *(2**power for power in range(10) if 2**power < most)})


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process, its ended children and its living descendants."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = (_proc(pid, "stat").rpartition(")")[2].split()[11:15] for pid in descendants())
    ticks = sum(int(value) for fields in living for value in fields)  # with what their own ended children took
    return time.process_time() + ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def peak_bytes() -> int:
    """Peak resident memory: the sum over this process and its living descendants of each one's own peak."""
    return sum(_status_bytes(pid, "VmHWM") for pid in (os.getpid(), *descendants()))


def forget_peaks() -> None:
    """Sets the kernel's peak of resident memory, of this process and its children, to what it is now."""
    for pid in (os.getpid(), *descendants()):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def own_bytes() -> int:
    """Resident memory of this process that belongs to it alone; pages of mapped files do not count.

    What was freed goes back to the system first: a process that was forked from one that had done much would else take
    what that one had left, and seem to need nothing.
    """
    ctypes.CDLL(None).malloc_trim(0)
    return _status_bytes(os.getpid(), "RssAnon")
