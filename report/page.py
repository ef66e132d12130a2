"""Sections of tables, charts and galleries in; one HTML page out with all that it needs inside, nothing fetched."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Text with a share 0..1 drawn behind it: a bar, in a matrix a shade. `marked`: set apart from the others."""

    text: str
    share: float
    marked: bool = False


Cell = str | Bar


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells below a header; the first column names the row. A sortable one can be searched, too."""

    header: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    form: Literal["plain", "sortable", "matrix"] = "plain"
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One panel: `svg` is markup of `report.drawing.svg`; `alternative` says in words what it shows."""

    name: str
    title: str
    svg: str
    alternative: str


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Panels in a grid. `legend`: (color, text) for each kind of line."""

    charts: list[Chart]
    legend: list[tuple[str, str]]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Pictures (data URIs) beside each other, a title, and lines below; `alternative` says what they show."""

    pictures: list[str]
    alternative: str
    title: str = ""
    lines: Sequence[Cell] = ()
    marked: bool = False


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Cards in a grid: `large` ones about 250 pixels wide, `small` ones 100, a `sheet` of rows of sixteen pictures."""

    cards: list[Card]
    size: Literal["small", "large", "sheet"] = "large"
    caption: str = ""


Block = Table | Charts | Gallery


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it: sentences, then blocks. `name` is its anchor."""

    name: str
    title: str
    sentences: Sequence[str] = ()
    blocks: Sequence[Block] = ()


def render(title: str, facts: list[tuple[str, str]], sections: list[Section]) -> str:
    """The page; `facts` (name, value) stand in its head. All text is escaped."""
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("template.html").render(title=title, facts=facts, sections=sections)
