"""A report for a thousand classes and fifty thousand images: complete, small, and whole whatever classes are called."""

from pathlib import Path

from tests.report.conftest import HOSTILE_NAMES
from tests.report.test_report import SECTIONS, Page


def test_the_page_is_complete_and_at_most_five_megabytes(thousand: Path) -> None:
    text = (thousand / "report.html").read_text()
    page = Page(text)
    assert len(text.encode()) <= 5_000_000
    assert page.sections == [name for name in SECTIONS if name != "neighbors"]  # there is no training split
    start = len(page.cells) - page.cells[::-1].index("wnid")  # the last such table has all classes
    assert [page.cells[start + 7 * label + 5] for label in range(1000)] == [str(label) for label in range(1000)]
    assert page.cells[start + 1] == "50" and page.cells[start + 2].endswith("%")
    pictures = [image["alt"] for image in page.images]
    assert sum((alternative or "").startswith("Left an image of ") for alternative in pictures) == 50
    assert len(page.images) == 6 + 8 + 2 * 50 + 24  # filters, guesses, confusions, mistakes


def test_no_name_of_a_class_breaks_it(thousand: Path) -> None:
    page = Page((thousand / "report.html").read_text())
    start = len(page.cells) - page.cells[::-1].index("wnid")  # the last such table has all classes
    shown = [page.cells[start + 7 * label] for label in range(len(HOSTILE_NAMES))]
    assert shown[:3] == ["$a_{b$", "<script>throw 1</script>", "two\nlines"]
    assert shown[3] == "x" * 39 + "…" and shown[4:] == HOSTILE_NAMES[4:]
