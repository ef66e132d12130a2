"""Tables in README files come from the results, each between its own marks, and nothing else changes."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES
from benchmarks.readme import FIGURES, HEADLINE, headline, update

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_tables_are_replaced_between_their_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "before\n<!-- benchmark: loader -->\nold\n<!-- end -->\nmiddle\n<!-- benchmark: cold -->\nkept\n<!-- end -->\n"
    )
    for name, quick in (("loader", "false"), ("cold", "true")):
        (tmp_path / f"{name}.md").write_text("| new \\1 |\n")
        (tmp_path / f"{name}.json").write_text(f'{{"quick": {quick}}}')
    assert update(readme, tmp_path) == ["loader"]
    text = readme.read_text()
    assert text == (
        "before\n<!-- benchmark: loader -->\n| new \\1 |\n<!-- end -->\nmiddle\n"
        "<!-- benchmark: cold -->\nkept\n<!-- end -->\n"
    )
    assert update(readme, tmp_path) == ["loader"] and readme.read_text() == text


def test_every_benchmark_has_its_table_and_its_plot_in_the_readme() -> None:
    text = (BENCHMARKS / "README.md").read_text()
    assert [text.count(f"<!-- benchmark: {name} -->\n") for name in NAMES] == [1] * len(NAMES)
    assert [text.count(f"(results/{name}.png)") for name in NAMES] == [1] * len(NAMES)
    assert text.count("<!-- end -->") == len(NAMES)


def write_results(folder: Path, name: str, rates: dict[str, float], quick: bool = False) -> None:
    rows = [
        {"name": row, "images_per_second": {"median": 2 * rate}, "images_per_cpu_second": {"median": rate}}
        for row, rate in rates.items()
    ]
    rows.append({"name": "absent", "images_per_second": None, "images_per_cpu_second": None})
    document = {"quick": quick, "machine": {"cores": 2, "processor": "Abacus"}, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(document))
    (folder / f"{name}.md").write_text("a table\n")


def test_headline_figures_are_rates_and_ratios_of_the_results(tmp_path: Path) -> None:
    assert headline(tmp_path) is None
    limit = "limit: libjpeg-turbo (simplejpeg), one thread"
    write_results(tmp_path, "loader", {"ours, float32": 1500, limit: 2000, "torch DataLoader + simplejpeg": 1000})
    write_results(tmp_path, "step", {"our norms": 8, "PyTorch's norms": 4, "loader alone": 30, "step alone": 10,
                                     "loader and step together": 9})  # fmt: skip
    write_results(tmp_path, "pack", {"ours": 300, "the seed's way": 150})
    write_results(tmp_path, "tenpatch", {"ours": 4, "network alone, plain": 5, "the seed's way": 2}, quick=True)
    assert headline(tmp_path) is None
    write_results(tmp_path, "tenpatch", {"ours": 4, "network alone, plain": 5, "the seed's way": 2})
    readme = tmp_path / "README.md"
    readme.write_text(f"<!-- benchmark: {HEADLINE} -->\n<!-- end -->\n")
    assert update(readme, tmp_path) == [HEADLINE]
    lines = readme.read_text().splitlines()
    assert lines[1] == "| on 2 cores of Abacus | images/s | beside |"
    cells = "0.75 of libjpeg-turbo's limit, 1.50 × torch's DataLoader with simplejpeg"  # no FFCV here
    assert lines[3] == f"| float32 batches from the loader | 3000 | {cells} |"
    assert lines[4] == "| training steps | 16.0 | 2.00 × the same with PyTorch's response norms |"
    assert lines[5] == "| loader and training step together | 18.0 | 0.90 of the slower of the two alone |"
    assert lines[7] == "| ten-patch evaluation | 8.0 | 0.80 of the network alone, 2.00 × the seed's way |"


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.what)
def test_every_headline_figure_is_in_the_published_results(figure) -> None:
    document = json.loads((BENCHMARKS / "results" / f"{figure.benchmark}.json").read_text())
    names = {row["name"] for row in document["rows"]}
    assert {figure.row, *(name for others in figure.beside.values() for name in others)} <= names
