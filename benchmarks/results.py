"""Rows → `<out>/<name>.json`, `.md` and `.png`, the table on the screen, and the tables in Markdown files.

The JSON names everything a reader needs to repeat or doubt a figure: command, commit, machine, versions,
data set, cache state, the exact operations, and every row with its spread. Tables stand between marks and are
replaced whole:

<!-- benchmark: loader --> … <!-- end -->      the table of one benchmark, in `benchmarks/README.md`
<!-- benchmark: headline --> … <!-- end -->    the headline figures of all of them, in `README.md`
"""

import dataclasses
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Row
from common.files import write_text
from sharding.options import CORES

LOGARITHMIC_FROM = 30  # times the smallest bar, above which a linear axis would show it as nothing
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "webdataset", "numpy", "pillow"]
PACKAGES += ["simplejpeg", "numba", "ffcv", "spdl"]
HEADLINE = "headline"
IN_HEADLINE = ("loader", "step", "pack", "tenpatch")
_MARKED = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a benchmark found: its rows, and what a reader needs to repeat or doubt them.

    limit, ours: names of the rows that all are compared with. headlines: figures for the README, by `Row.headline`.
    remarks: lines below the table.
    """

    title: str
    rows: Sequence[Row]
    data_set: dict[str, object]
    operations: str
    cache: str = "page cache warm"
    limit: str = ""
    ours: str = ""
    headlines: Sequence[dict] = ()
    remarks: Sequence[str] = ()

    def publish(self, name: str, quick: bool, out: Path) -> None:
        """Writes the three files of benchmark `name` into `out` and prints the table."""
        document = vars(self) | {
            "benchmark": name,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": "python -m " + " ".join(["benchmarks", *sys.argv[1:]]),
            "quick": quick,
            "machine": machine(),
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }
        write_both(out / name, document, self.markdown(document))
        self.plot(out / f"{name}.png")

    def markdown(self, document: dict[str, Any]) -> str:
        """The table below two lines that say when, where and on what it was measured, above the remarks."""
        rows, where = self.rows, document["machine"]
        columns = {
            "": [row.name for row in rows],
            "images/s": [in_words(row.rate("seconds")) for row in rows],
            "images per CPU-second": [in_words(row.rate()) for row in rows],
            "of the limit": self._ratios(self.limit),
            "of ours": self._ratios(self.ours),
            "peak MB": self._medians("peak_bytes", 1e6, 0),
            "p99 wait ms": self._medians("wait_p99_seconds", 1e-3, 1),
            "note": ["; ".join(filter(None, (row.note, row.missing))) for row in rows],
        }
        columns = {head: cells for head, cells in columns.items() if any(cells)}
        lines = [
            f"### {self.title}\n",
            f"{document['date'][:10]}, commit {where['commit']}, {where['cores']} cores of {where['processor']}; "
            f"{self.cache}; median (lowest–highest) of {max(len(row.repeats) for row in rows)} interleaved repeats"
            f"{', quick run' if document['quick'] else ''}. `{document['command']}`\n",
            *(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *zip(*columns.values()))),
            *[""] * bool(self.remarks),
            *(f"- {remark}" for remark in self.remarks),
        ]
        return "\n".join(lines) + "\n"

    def _ratios(self, base: str) -> list[str]:
        named = {row.name: row for row in self.rows}
        return [f"{np.median(row.over(named[base])):.2f}" if base and row.rate().size else "" for row in self.rows]

    def _medians(self, name: str, unit: float, digits: int) -> list[str]:
        found = [[value for repeat in row.repeats if (value := getattr(repeat, name))] for row in self.rows]
        return [f"{np.median(values) / unit:.{digits}f}" if values else "" for values in found]

    def plot(self, path: Path) -> None:
        """Horizontal bars of the rows' images per CPU-second, with the spread as a whisker."""
        from matplotlib.figure import Figure  # 0.3 s to import, and only a benchmark's end needs it

        rates = {row.name: np.quantile(row.rate(), (0, 0.5, 1)) for row in self.rows if row.rate().size}
        low, medians, high = np.array(list(rates.values())).T
        figure = Figure(figsize=(9, 1.2 + 0.42 * len(rates)), layout="constrained")
        axes = figure.subplots()
        style: dict[str, Any] = {"color": "#4477aa", "ecolor": "#222222", "capsize": 2}
        bars = axes.barh(list(rates), medians, xerr=(medians - low, high - medians), **style)
        axes.bar_label(bars, [f"{median:,.{0 if median >= 100 else 2}f}" for median in medians], padding=6, fontsize=8)
        if max(medians) > LOGARITHMIC_FROM * min(medians):
            axes.set_xscale("log")
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(title=self.title, xlabel="images per CPU-second")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=110)


def in_words(values: np.ndarray) -> str:
    """Repeats' values as `median (low–high)` with digits that fit the size; nothing for none."""
    if not values.size:
        return ""
    low, median, high = np.quantile(values, (0, 0.5, 1))
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def write_both(path: Path, document: dict[str, Any], text: str) -> None:
    """Writes `<path>.json` and `<path>.md`, and prints the text."""
    write_text(path.with_suffix(".json"), json.dumps(document, indent=1, default=str) + "\n")
    write_text(path.with_suffix(".md"), text)
    sys.stdout.write(text)


def machine() -> dict[str, object]:
    """Processor, usable cores, memory, operating system, Python and package versions, commit."""
    processors = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    installed = {found.metadata["Name"].lower(): found.version for found in metadata.distributions()}
    return {
        "processor": (processors or ["?"])[0],
        "cores": CORES,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
        "commit": commit(),
    }


def commit() -> str:
    """The commit of this tree (`unknown` outside git), `+changes` if other files differ than what benchmarks write."""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=False)
    head = git(["git", "rev-parse", "--short", "HEAD"])
    written = (":!benchmarks/results", ":!README.md", ":!benchmarks/README.md")
    differs = git(["git", "diff", "--quiet", "HEAD", "--", ".", *written]).returncode
    return "unknown" if head.returncode else head.stdout.strip() + "+changes" * bool(differs)


def update(readme: Path, results: Path) -> None:
    """Put each benchmark's table, and the headline figures, between its marks in `readme`.

    A mark whose benchmark has no table in `results`, or one of a quick run, keeps what it holds.
    """

    def table(match: re.Match[str]) -> str:
        text = headline(results) if match[2] == HEADLINE else published(results, match[2])
        return f"{match[1]}{text}{match[3]}" if text else match[0]

    write_text(readme, _MARKED.sub(table, readme.read_text()))


def published(results: Path, name: str) -> str:
    """The table of a full run of the benchmark, or nothing."""
    path = results / f"{name}.md"
    quick = not path.exists() or json.loads(path.with_suffix(".json").read_text())["quick"]
    return "" if quick else path.read_text()


def headline(results: Path) -> str:
    """The headline figures as one table; nothing until each of their benchmarks has had a full run."""
    if not all(published(results, name) for name in IN_HEADLINE):
        return ""
    documents = [json.loads((results / f"{name}.json").read_text()) for name in IN_HEADLINE]
    machine = documents[0]["machine"]
    lines = [f"| on {machine['cores']} cores of {machine['processor']} | images/s | beside |", "|---|---|---|"]
    for figure in (figure for document in documents for figure in document["headlines"]):
        rate, ratios = figure["images_per_second"], [f"{ratio:.2f} {text}" for text, ratio in figure["beside"].items()]
        lines.append(f"| {figure['what']} | {rate:.{0 if rate >= 100 else 1}f} | {', '.join(ratios)} |")
    return "\n".join(lines) + "\n"
