"""Sections in, one self-contained HTML page out: pictures inside as base64, no script, nothing fetched."""

import base64
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from report.drawing import Picture


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text below a header; the first column names the row."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands under it. `name` is its anchor."""

    name: str
    title: str
    sentences: list[str] = field(default_factory=list)
    table: Table | None = None
    pictures: list[Picture] = field(default_factory=list)


def render(title: str, summary: list[str], sections: list[Section]) -> str:
    """The page. All text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    return environment.get_template("template.html").render(title=title, summary=summary, sections=sections)
