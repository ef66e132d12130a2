"""Tables in Markdown files are those that the benchmarks wrote: each stands between marks and is replaced whole.

<!-- benchmark: loader --> … <!-- end -->      the table of one benchmark, in `benchmarks/README.md`
<!-- benchmark: headline --> … <!-- end -->    the headline figures of all of them, in `README.md`
"""

import json
import re
from pathlib import Path

from benchmarks.results import write

_MARKED = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADLINE = "headline"
IN_HEADLINE = ("loader", "step", "pack", "tenpatch")


def update(readme: Path, results: Path) -> list[str]:
    """Put each benchmark's table, and the headline figures, between its marks in `readme`. Returns what was replaced.

    A mark whose benchmark has no table in `results`, or one of a quick run, keeps what it holds.
    """
    replaced = []

    def table(match: re.Match[str]) -> str:
        text = headline(results) if match[2] == HEADLINE else published(results, match[2])
        if not text:
            return match[0]
        replaced.append(match[2])
        return f"{match[1]}{text}{match[3]}"

    write(readme, _MARKED.sub(table, readme.read_text()))
    return replaced


def published(results: Path, name: str) -> str:
    """The table of a full run of the benchmark, or nothing."""
    path = results / f"{name}.md"
    quick = not path.exists() or json.loads(path.with_suffix(".json").read_text())["quick"]
    return "" if quick else path.read_text()


def headline(results: Path) -> str:
    """The headline figures as one table; nothing until each of their benchmarks has had a full run."""
    names = [name for name in IN_HEADLINE if published(results, name)]
    documents = [json.loads((results / f"{name}.json").read_text()) for name in names]
    if sum("headlines" in document for document in documents) < len(IN_HEADLINE):  # results of 0.1 have none
        return ""
    machine = documents[0]["machine"]
    lines = [f"| on {machine['cores']} cores of {machine['processor']} | images/s | beside |", "|---|---|---|"]
    for figure in (figure for document in documents for figure in document["headlines"]):
        rate, beside = figure["images_per_second"], figure["beside"].items()
        ratios = ", ".join(f"{ratio:.2f} {text}" for text, ratio in beside)
        lines.append(f"| {figure['what']} | {rate:.{0 if rate >= 100 else 1}f} | {ratios} |")
    return "\n".join(lines) + "\n"
