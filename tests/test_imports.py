"""Data flows one way: who may import whom (the rooms in the order of the drawing in README.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT: dict[str, set[str]] = {
    "common": set(),
    "sharding": set(),
    "dali_pipelines": {"sharding"},
    "model": set(),
    "training": {"sharding", "dali_pipelines", "model"},
    "evaluation": {"sharding", "dali_pipelines", "model"},
    "report": {"sharding", "dali_pipelines", "model", "evaluation"},
    "train": {"training"},
    "eval_tenpatch": {"evaluation", "training"},
    "benchmarks": {"sharding", "dali_pipelines", "model", "training", "evaluation", "report"},
    "scripts": {"sharding", "dali_pipelines", "model", "training", "evaluation", "report"},
    "examples": {"sharding", "dali_pipelines", "model"},
}  # `common` may be imported by all; who is not named on the right, such as `train`, is imported by nobody
ONLY_MODULES = {"eval_tenpatch": {"training": {"mesh", "collectives"}}}
OURS = set(MAY_IMPORT)


def imported(path: Path) -> set[tuple[str, str]]:
    """(room, module in it or "") of our own that the file at `path` imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    parts = [name.split(".") for name in names]
    return {(part[0], part[1] if len(part) > 1 else "") for part in parts if part[0] in OURS}


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py")) or [path for path in [ROOT / f"{room}.py"] if path.exists()]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_follow_the_flow_of_data(room: str) -> None:
    for file in files_of(room):
        imports = imported(file)
        forbidden = {name for name, _ in imports} - MAY_IMPORT[room] - {room, "common"}
        assert not forbidden, f"{file.relative_to(ROOT)} imports {sorted(forbidden)}"
        for other, modules in ONLY_MODULES.get(room, {}).items():
            assert {module for name, module in imports if name == other} <= modules, file


def test_every_room_is_in_the_table() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/*.py")} - {"tests"}
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert len(rooms) >= 9 and scripts == {"train", "eval_tenpatch"}
    assert rooms | scripts <= OURS
