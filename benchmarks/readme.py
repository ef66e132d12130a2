"""The README's tables are those that `make bench` wrote: each stands between a pair of marks and is replaced whole.

<!-- benchmark: loader --> … <!-- end -->
"""

import json
import re
from pathlib import Path

_MARKED = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def update(readme: Path, results: Path) -> list[str]:
    """Put each benchmark's `<results>/<name>.md` between its marks in `readme`. Returns the names that were replaced.

    A mark whose benchmark has no table in `results`, or one of a quick run, keeps what it holds.
    """
    replaced = []

    def table(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.md"
        if not path.exists() or json.loads(path.with_suffix(".json").read_text())["quick"]:
            return match[0]
        replaced.append(match[2])
        return f"{match[1]}{path.read_text()}{match[3]}"

    text = _MARKED.sub(table, readme.read_text())
    part = readme.with_suffix(".md.part")
    part.write_text(text)
    part.replace(readme)
    return replaced
