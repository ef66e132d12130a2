"""A run made by hand and evaluated, for the tests of the report."""

from pathlib import Path

import pytest

from eval_tenpatch import main as evaluate
from tests.handmade import make_run, pack_splits


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes, 14 training and 9 held-out pictures as JPEG."""
    return pack_splits(tmp_path_factory.mktemp("report"), classes=7, train=14, val=9, encoding="jpeg")


@pytest.fixture(scope="session")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run; tests that change it work on a copy."""
    folder = make_run(tmp_path_factory.mktemp("evaluated") / "run", shards)
    assert evaluate(["--run-dir", str(folder), "--device", "cpu"]) == 0
    return folder
