"""The README's tables come from the results, each between its own marks, and nothing else changes."""

from pathlib import Path

from benchmarks.__main__ import NAMES
from benchmarks.readme import update

ROOT = Path(__file__).resolve().parents[2]


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


def test_the_readme_has_a_place_for_every_benchmark() -> None:
    text = (ROOT / "README.md").read_text()
    assert [text.count(f"<!-- benchmark: {name} -->\n") for name in NAMES] == [1] * len(NAMES)
    assert text.count("<!-- end -->") == len(NAMES)
