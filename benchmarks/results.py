"""Rows → `<out>/<name>.json`, `.md` and `.png`, the table on the screen, and the tables in Markdown files.

The JSON names everything a reader needs to repeat or doubt a figure: command, commit, machine, versions,
data set, cache state, the exact operations, and every row with its spread. Tables stand between marks and are
replaced whole:

<!-- benchmark: loader --> … <!-- end -->      the table of one benchmark, in `benchmarks/README.md`
<!-- benchmark: headline --> … <!-- end -->    the headline figures of all of them, in `README.md`
"""

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
from common.files import write_atomically
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
        named = {row.name: row for row in self.rows}
        document = vars(self) | {
            "benchmark": name,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": "python -m " + " ".join(["benchmarks", *sys.argv[1:]]),
            "quick": quick,
            "machine": machine(),
            "rows": [figures(row, named.get(self.limit), named.get(self.ours)) for row in self.rows],
        }
        write_both(out / name, document, markdown(document))
        plot(document, out / f"{name}.png")


def figures(row: Row, limit: Row | None, ours: Row | None) -> dict[str, Any]:
    """A row of the JSON; None for what was not measured."""
    by_cpu = any(repeat.cpu_seconds for repeat in row.repeats)
    waits = [wait for repeat in row.repeats for wait in repeat.waits_seconds]
    return {
        "name": row.name,
        "note": row.note,
        "missing": row.missing,
        "repeats": len(row.repeats),
        "images": max((repeat.images for repeat in row.repeats), default=0),
        "images_per_second": spread(row.rate("seconds")) if row.repeats else None,
        "images_per_cpu_second": spread(row.rate()) if by_cpu else None,
        "to_limit": spread(row.over(limit)) if by_cpu and limit else None,
        "to_ours": spread(row.over(ours)) if by_cpu and ours else None,
        "peak_bytes": max((repeat.peak_bytes for repeat in row.repeats), default=0),
        "wait_p99_seconds": float(np.quantile(waits, 0.99, method="inverted_cdf")) if waits else None,
    }


def spread(values: np.ndarray) -> dict[str, Any]:
    """Median, lowest and highest of the repeats' values, and each of them."""
    low, median, high = np.quantile(values, (0, 0.5, 1)).tolist()
    return {"median": median, "low": low, "high": high, "values": values.tolist()}


def in_words(figure: dict[str, Any] | None) -> str:
    """A spread as `median (low–high)` with digits that fit the size; nothing for nothing."""
    if figure is None:
        return ""
    digits = 0 if figure["median"] >= 100 else 1 if figure["median"] >= 10 else 2
    return f"{figure['median']:.{digits}f} ({figure['low']:.{digits}f}–{figure['high']:.{digits}f})"


def write_both(path: Path, document: dict[str, Any], text: str) -> None:
    """Writes `<path>.json` and `<path>.md`, and prints the text."""
    write(path.with_suffix(".json"), json.dumps(document, indent=1, default=str) + "\n")
    write(path.with_suffix(".md"), text)
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
        "cores": CORES,
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


def markdown(document: dict[str, Any]) -> str:
    """The table as Markdown, below two lines that say when, where and on what it was measured, above the remarks."""
    where, rows = document["machine"], document["rows"]
    ratios = {"of the limit": "to_limit", "of ours": "to_ours"}
    columns = {
        "": [row["name"] for row in rows],
        "images/s": [in_words(row["images_per_second"]) for row in rows],
        "images per CPU-second": [in_words(row["images_per_cpu_second"]) for row in rows],
        **{head: [f"{row[key]['median']:.2f}" if row[key] else "" for row in rows] for head, key in ratios.items()},
        "peak MB": [f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else "" for row in rows],
        "p99 wait ms": ["" if (wait := row["wait_p99_seconds"]) is None else f"{1e3 * wait:.1f}" for row in rows],
        "note": ["; ".join(filter(None, (row["note"], row["missing"]))) for row in rows],
    }
    columns = {head: cells for head, cells in columns.items() if any(cells) or not head}
    lines = [
        f"### {document['title']}\n",
        f"{document['date'][:10]}, commit {where['commit']}, {where['cores']} cores of {where['processor']}; "
        f"{document['cache']}; median (lowest–highest) of {max(row['repeats'] for row in rows)} interleaved repeats"
        f"{', quick run' if document['quick'] else ''}. `{document['command']}`\n",
        *(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *zip(*columns.values()))),
        *[""] * bool(document["remarks"]),
        *(f"- {remark}" for remark in document["remarks"]),
    ]
    return "\n".join(lines) + "\n"


def plot(document: dict[str, Any], path: Path) -> None:
    """Horizontal bars of the rows' images per CPU-second, with the spread as a whisker."""
    from matplotlib.figure import Figure  # 0.3 s to import, and only a benchmark's end needs it

    rates = {row["name"]: row["images_per_cpu_second"] for row in document["rows"] if row["images_per_cpu_second"]}
    low, medians, high = (np.array([rate[key] for rate in rates.values()]) for key in ("low", "median", "high"))
    figure = Figure(figsize=(9, 1.2 + 0.42 * len(rates)), layout="constrained")
    axes = figure.subplots()
    style: dict[str, Any] = {"color": "#4477aa", "ecolor": "#222222", "capsize": 2}
    bars = axes.barh(list(rates), medians, xerr=(medians - low, high - medians), **style)
    axes.bar_label(bars, [f"{median:,.{0 if median >= 100 else 2}f}" for median in medians], padding=6, fontsize=8)
    if max(medians) > LOGARITHMIC_FROM * min(medians):
        axes.set_xscale("log")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(title=document["title"], xlabel="images per CPU-second")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def update(readme: Path, results: Path) -> None:
    """Put each benchmark's table, and the headline figures, between its marks in `readme`.

    A mark whose benchmark has no table in `results`, or one of a quick run, keeps what it holds.
    """

    def table(match: re.Match[str]) -> str:
        text = headline(results) if match[2] == HEADLINE else published(results, match[2])
        return f"{match[1]}{text}{match[3]}" if text else match[0]

    write(readme, _MARKED.sub(table, readme.read_text()))


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
