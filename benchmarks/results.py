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
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, cores
from common.files import write_atomically

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

    headlines: figures for the README, by `Row.headline`. remarks: lines below the table. extra: more keys of the JSON.
    """

    title: str
    rows: Sequence[Row]
    data_set: dict[str, object]
    operations: str
    cache: str = "page cache warm"
    headlines: Sequence[dict] = ()
    remarks: Sequence[str] = ()
    extra: dict[str, object] = field(default_factory=dict)

    def publish(self, name: str, quick: bool, out: Path) -> None:
        """Writes the three files of benchmark `name` into `out` and prints the table."""
        document = {
            "benchmark": name,
            "title": self.title,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": "python -m " + " ".join(["benchmarks", *sys.argv[1:]]),
            "quick": quick,
            "machine": machine(),
            "data_set": self.data_set,
            "cache": self.cache,
            "operations": self.operations,
            "headlines": list(self.headlines),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            **self.extra,
        }
        text = markdown(document, self.rows, self.remarks)
        write(out / f"{name}.json", json.dumps(document, indent=1) + "\n")
        write(out / f"{name}.md", text)
        plot(self.title, [row for row in self.rows if row.images_per_cpu_second], out / f"{name}.png")
        sys.stdout.write(text)


def write(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with write_atomically(path) as file:
        file.write(text.encode())


def machine() -> dict[str, object]:
    """Processor, usable cores, memory, operating system, Python and package versions, commit."""
    processors = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    installed = {found.metadata["Name"].lower(): found.version for found in metadata.distributions()}
    return {
        "processor": (processors or ["?"])[0],
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
        "commit": commit(),
    }


def commit() -> str:
    """The commit of this tree, with `+changes` when other tracked files differ than what benchmarks write.

    `unknown` outside git.
    """
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=False)
    head = git(["git", "rev-parse", "--short", "HEAD"])
    written = (":!benchmarks/results", ":!README.md", ":!benchmarks/README.md")
    differs = git(["git", "diff", "--quiet", "HEAD", "--", ".", *written]).returncode
    return "unknown" if head.returncode else head.stdout.strip() + "+changes" * bool(differs)


def markdown(document: dict[str, Any], rows: Sequence[Row], remarks: Sequence[str] = ()) -> str:
    """The table as Markdown, below two lines that say when, where and on what it was measured, above the remarks."""
    where, repeats = document["machine"], max((row.repeats for row in rows), default=0)
    columns = {
        "": [row.name for row in rows],
        "images/s": [str(row.images_per_second or "") for row in rows],
        "images per CPU-second": [str(row.images_per_cpu_second or "") for row in rows],
        "of the limit": [f"{row.to_limit.median:.2f}" if row.to_limit else "" for row in rows],
        "of ours": [f"{row.to_ours.median:.2f}" if row.to_ours else "" for row in rows],
        "peak MB": [f"{row.peak_bytes / 1e6:.0f}" if row.peak_bytes else "" for row in rows],
        "p99 wait ms": ["" if row.wait_p99_seconds is None else f"{1e3 * row.wait_p99_seconds:.1f}" for row in rows],
        "note": ["; ".join(part for part in (row.note, row.missing) if part) for row in rows],
    }
    columns = {head: cells for head, cells in columns.items() if any(cells) or not head}
    lines = [
        f"### {document['title']}\n",
        f"{document['date'][:10]}, commit {where['commit']}, {where['cores']} cores of {where['processor']}; "
        f"{document['cache']}; median (lowest–highest) of {repeats} interleaved repeats"
        f"{', quick run' if document['quick'] else ''}. `{document['command']}`\n",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(cells) + " |" for cells in zip(*columns.values())),
    ]
    return "\n".join([*lines, *[""] * bool(remarks), *(f"- {remark}" for remark in remarks)]) + "\n"


def plot(title: str, rows: Sequence[Row], path: Path) -> None:
    """Horizontal bars of the rows' images per CPU-second, with the spread as a whisker."""
    from matplotlib.figure import Figure  # 0.3 s to import, and only a benchmark's end needs it

    figure = Figure(figsize=(9, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes, rates = figure.subplots(), [row.rate() for row in rows]
    medians = [rate.median for rate in rates]
    whiskers = [[rate.median - rate.low for rate in rates], [rate.high - rate.median for rate in rates]]
    style: dict[str, Any] = {"color": "#4477aa", "ecolor": "#222222", "capsize": 2}
    bars = axes.barh([row.name for row in rows], medians, xerr=whiskers, **style)
    axes.bar_label(bars, [f"{median:,.{0 if median >= 100 else 2}f}" for median in medians], padding=6, fontsize=8)
    if medians and max(medians) > LOGARITHMIC_FROM * min(medians):
        axes.set_xscale("log")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(title=title, xlabel="images per CPU-second")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def update(readme: Path, results: Path) -> list[str]:
    """Put each benchmark's table, and the headline figures, between its marks in `readme`. Returns what was replaced.

    A mark whose benchmark has no table in `results`, or one of a quick run, keeps what it holds.
    """
    replaced: list[str] = []

    def table(match: re.Match[str]) -> str:
        text = headline(results) if match[2] == HEADLINE else published(results, match[2])
        replaced.extend([match[2]] * bool(text))
        return f"{match[1]}{text}{match[3]}" if text else match[0]

    write(readme, _MARKED.sub(table, readme.read_text()))
    return replaced


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
