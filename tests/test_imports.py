"""Data flows one way: who may import whom (the order of the packages in the README's drawing)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"sharding", "dali_pipelines", "model", "report", "benchmarks", "train", "eval_tenpatch", "scripts"}
MAY_IMPORT: dict[str, set[str]] = {
    "sharding": set(),
    "dali_pipelines": {"sharding"},
    "model": set(),
    "train": {"sharding", "dali_pipelines", "model"},
    "eval_tenpatch": {"sharding", "dali_pipelines", "model", "report"},
    "report": {"sharding", "dali_pipelines", "model"},
    "benchmarks": {"sharding", "dali_pipelines", "model", "report", "eval_tenpatch"},
}


def imported(path: Path) -> set[str]:
    """Our own top-level packages that the module at `path` imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names & OURS


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_follow_the_flow_of_data(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py")) or [ROOT / f"{package}.py"]
    assert files and all(file.exists() for file in files)
    for file in files:
        forbidden = imported(file) - MAY_IMPORT[package] - {package}
        assert not forbidden, f"{file.relative_to(ROOT)} imports {sorted(forbidden)}"
