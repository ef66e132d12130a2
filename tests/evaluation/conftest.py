"""Packed splits for the tests of evaluation."""

from pathlib import Path

import pytest

from tests.handmade import pack_splits


@pytest.fixture(scope="session")
def raw_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes, 21 training and 9 held-out pictures, stored raw: no decoder stands between them and NumPy."""
    return pack_splits(tmp_path_factory.mktemp("raw"), classes=7, train=21, val=9, encoding="raw")


@pytest.fixture(scope="session")
def jpeg_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, fewer than five; 9 training and 7 held-out pictures as JPEG."""
    return pack_splits(tmp_path_factory.mktemp("jpeg"), classes=3, train=9, val=7, encoding="jpeg")
