"""Interleaved repeats → rows of medians and spreads: what every benchmark here measures with.

Enters: cases, each a function that does one repeat of the work and returns what it measured.
Leaves: rows (images/s, images per CPU-second, ratios, peak memory, p99 wait for a batch).

A case is run once to warm up; then all cases take turns, so that a noisy neighbor disturbs all of them
alike. CPU time counts this process, its threads and its children, living or gone.
"""

import ctypes
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

MINIMUM_REPEATS = 5
Clock = Literal["images_per_second", "images_per_cpu_second"]


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One repeat of a case: `images` done in `seconds` wall and `cpu_seconds` of CPU, all processes summed."""

    images: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int = 0
    waits_seconds: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A line of a benchmark: `repeat()` does the work once. `missing`, if set, says why it cannot run here.

    `reference` marks the case that the others are divided by: "limit", "ours" or "" (neither).
    """

    name: str
    repeat: Callable[[], Repeat] | None = None
    missing: str = ""
    reference: Literal["limit", "ours", ""] = ""
    note: str = ""
    details: dict[str, object] = field(default_factory=dict)


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


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a case gave. Ratios are medians of the ratios of repeats made side by side, per CPU-second."""

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
        others = {text: [row for row in rows if row.images_per_second] for text, rows in beside.items()}
        ratios = {
            text: self.rate(clock).over(*(row.rate(clock) for row in rows)).median
            for text, rows in others.items()
            if rows
        }
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


def descendants(of: int | None = None) -> list[int]:
    """Process ids of the living children of a process (this one), their children included (Linux /proc)."""
    children_of_all, queue = [], [of or os.getpid()]
    while queue:
        for children in Path(f"/proc/{queue.pop()}/task").glob("*/children"):
            try:
                pids = [int(pid) for pid in children.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue  # that thread ended between the listing and the reading
            children_of_all += pids
            queue += pids
    return children_of_all


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process, its ended children and its living descendants."""
    ended = os.times()  # counts in clock ticks of 10 ms, process_time in nanoseconds
    total = time.process_time() + ended.children_user + ended.children_system
    ticks = os.sysconf("SC_CLK_TCK")
    for pid in descendants():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended just now: its parent's `children` fields count it from the next call on
        total += sum(int(value) for value in fields[11:15]) / ticks
    return total


def peak_bytes() -> int:
    """Peak resident memory: the sum over this process and its living descendants of each one's own peak."""
    total = 0
    for pid in [os.getpid(), *descendants()]:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended since it was listed
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    return total


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
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


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


def interleave(cases: Sequence[Case], repeats: int = MINIMUM_REPEATS, warm_ups: int = 1) -> list[Row]:
    """Runs every case to warm up, then all of them in turn `repeats` times. One row a case, same order."""
    able = [case for case in cases if case.repeat is not None]
    measured: dict[str, list[Repeat]] = {case.name: [] for case in able}
    if len(measured) != len(able):
        raise ValueError(f"two cases share a name: {sorted(case.name for case in able)}")
    for round_number in range(-warm_ups, repeats):
        for case in able:
            assert case.repeat is not None
            repeat = case.repeat()
            if round_number >= 0:
                measured[case.name].append(repeat)
    rows = [Row(name=case.name, note=case.note, missing=case.missing, details=case.details) for case in cases]
    rows = [row.measured(measured[row.name]) if row.name in measured else row for row in rows]
    for reference in ("limit", "ours"):
        base = next((row for case, row in zip(cases, rows) if case.reference == reference and not row.missing), None)
        ratios = {row.name: row.rate().over(base.rate()) for row in rows if base and not row.missing}
        rows = [replace(row, **{f"to_{reference}": ratios.get(row.name)}) for row in rows]  # type: ignore[arg-type]
    return rows
