"""Tables in Markdown files are those that the benchmarks wrote: each stands between marks and is replaced whole.

<!-- benchmark: loader --> … <!-- end -->      the table of one benchmark, in `benchmarks/README.md`
<!-- benchmark: headline --> … <!-- end -->    the five figures to know, from all of them, in `README.md`
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from common.files import write_atomically

_MARKED = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADLINE = "headline"
CPU, WALL = "images_per_cpu_second", "images_per_second"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A headline: a row of a benchmark, and its rate on `clock` over the lowest of other rows' (text → their names)."""

    what: str
    benchmark: str
    row: str
    beside: dict[str, tuple[str, ...]]
    clock: str = CPU


FIGURES = (
    Figure(
        what="float32 batches from the loader",
        benchmark="loader",
        row="ours, float32",
        beside={
            "of libjpeg-turbo's limit": ("limit: libjpeg-turbo (simplejpeg), one thread",),
            "× FFCV": ("FFCV",),
            "× torch's DataLoader with simplejpeg": ("torch DataLoader + simplejpeg",),
        },
    ),
    Figure(
        what="training steps",
        benchmark="step",
        row="our norms",
        beside={"× the same with PyTorch's response norms": ("PyTorch's norms",)},
    ),
    Figure(
        what="loader and training step together",
        benchmark="step",
        row="loader and step together",
        beside={"of the slower of the two alone": ("loader alone", "step alone")},
        clock=WALL,
    ),
    Figure(
        what="packing photographs, one process",
        benchmark="pack",
        row="ours",
        beside={"× the seed's way": ("the seed's way",)},
    ),
    Figure(
        what="ten-patch evaluation",
        benchmark="tenpatch",
        row="ours",
        beside={"of the network alone": ("network alone, plain",), "× the seed's way": ("the seed's way",)},
    ),
)


def update(readme: Path, results: Path) -> list[str]:
    """Put each benchmark's table, and the headline figures, between its marks in `readme`. Returns what was replaced.

    A mark whose benchmark has no table in `results`, or one of a quick run, keeps what it holds.
    """
    replaced = []

    def table(match: re.Match[str]) -> str:
        text = headline(results) if match[2] == HEADLINE else published(results, match[2])
        if text is None:
            return match[0]
        replaced.append(match[2])
        return f"{match[1]}{text}{match[3]}"

    text = _MARKED.sub(table, readme.read_text())
    with write_atomically(readme) as file:
        file.write(text.encode())
    return replaced


def published(results: Path, name: str) -> str | None:
    """The table of a full run of the benchmark, or None."""
    path = results / f"{name}.md"
    if not path.exists() or json.loads(path.with_suffix(".json").read_text())["quick"]:
        return None
    return path.read_text()


def headline(results: Path) -> str | None:
    """The table of `FIGURES`; None until each of their benchmarks has had a full run."""
    documents = {}
    for name in dict.fromkeys(figure.benchmark for figure in FIGURES):
        if published(results, name) is None:
            return None
        documents[name] = json.loads((results / f"{name}.json").read_text())
    machine = documents[FIGURES[0].benchmark]["machine"]
    lines = [f"| on {machine['cores']} cores of {machine['processor']} | images/s | beside |", "|---|---|---|"]
    for figure in FIGURES:
        rows = {row["name"]: row for row in documents[figure.benchmark]["rows"]}
        rate = rows[figure.row]["images_per_second"]["median"]
        median = {name: row[figure.clock]["median"] for name, row in rows.items() if row[figure.clock]}
        beside = [
            f"{median[figure.row] / min(median[name] for name in names):.2f} {text}"
            for text, names in figure.beside.items()
            if all(name in median for name in names)
        ]
        lines.append(f"| {figure.what} | {rate:.{0 if rate >= 100 else 1}f} | {', '.join(beside)} |")
    return "\n".join(lines) + "\n"
