"""Tables in README files come from the results, each between its own marks, and nothing else changes."""

import json
from pathlib import Path

from benchmarks.__main__ import ALL_NAMES, NAMES
from benchmarks.results import HEADLINE, IN_HEADLINE, headline, update

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_tables_are_replaced_between_their_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "before\n<!-- benchmark: loader -->\nold\n<!-- end -->\nmiddle\n<!-- benchmark: cold -->\nkept\n<!-- end -->\n"
    )
    for name, quick in (("loader", "false"), ("cold", "true")):
        (tmp_path / f"{name}.md").write_text("| new \\1 |\n")
        (tmp_path / f"{name}.json").write_text(f'{{"quick": {quick}}}')
    update(readme, tmp_path)
    text = readme.read_text()
    assert text == (
        "before\n<!-- benchmark: loader -->\n| new \\1 |\n<!-- end -->\nmiddle\n"
        "<!-- benchmark: cold -->\nkept\n<!-- end -->\n"
    )
    update(readme, tmp_path)
    assert readme.read_text() == text


def test_every_benchmark_has_its_table_and_its_plot_in_the_readme() -> None:
    text = (BENCHMARKS / "README.md").read_text()
    assert [text.count(f"<!-- benchmark: {name} -->\n") for name in ALL_NAMES] == [1] * len(ALL_NAMES)
    assert [text.count(f"(results/{name}.png)") for name in NAMES] == [1] * len(NAMES)
    assert text.count("<!-- end -->") == len(ALL_NAMES)


def write_results(folder: Path, name: str, *headlines: dict, quick: bool = False) -> None:
    document = {"quick": quick, "machine": {"cores": 2, "processor": "Abacus"}, "headlines": headlines}
    (folder / f"{name}.json").write_text(json.dumps(document))
    (folder / f"{name}.md").write_text("a table\n")


def test_headline_figures_are_those_of_the_results(tmp_path: Path) -> None:
    assert not headline(tmp_path)
    for name in IN_HEADLINE:
        write_results(tmp_path, name, quick=name == "tenpatch")
    assert not headline(tmp_path)
    views = {"what": "views", "images_per_second": 8.04, "beside": {"of the network": 0.8, "× the seed": 2}}
    write_results(tmp_path, "tenpatch", views)
    write_results(tmp_path, "loader", {"what": "batches", "images_per_second": 3000.4, "beside": {}})
    readme = tmp_path / "README.md"
    readme.write_text(f"<!-- benchmark: {HEADLINE} -->\n<!-- end -->\n")
    update(readme, tmp_path)
    assert readme.read_text().splitlines()[1:-1] == [
        "| on 2 cores of Abacus | images/s | beside |",
        "|---|---|---|",
        "| batches | 3000 |  |",
        "| views | 8.0 | 0.80 of the network, 2.00 × the seed |",
    ]
