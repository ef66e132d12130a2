"""The contact sheet shows the pictures under their names; the summary counts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding import PackOptions, ShardError, ShardSet, pack
from sharding.show import CELL, contact_sheet, show


@pytest.fixture(scope="module")
def packed(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(PackOptions(source=class_folders, out=tmp_path_factory.mktemp("shown"), workers=1))[0].parent


def test_the_sheet_holds_each_picture_in_its_cell(packed: Path) -> None:
    with ShardSet.open(packed / "train") as shards:
        sheet = np.asarray(contact_sheet(shards, 24)).astype(int)
        columns = sheet.shape[1] // CELL
        labels = shards.labels(range(24))
        means = [np.asarray(Image.fromarray(sheet[: CELL - 4, : CELL - 4].astype(np.uint8))).mean((0, 1))]
        assert columns == 8 and len(means[0]) == 3
        for place in range(24):
            top, left = place // columns * (CELL + 16), place % columns * CELL
            red, green, _ = sheet[top + 4 : top + CELL - 8, left + 4 : left + CELL - 8].mean((0, 1))
            assert abs(red - 80 * labels[place]) < 12 and abs(green - (255 - 80 * labels[place])) < 12
            caption = sheet[top + CELL - 2 : top + CELL + 14, left : left + CELL]
            assert (caption < 128).any() and (caption > 200).any()  # ink on white


def test_show_prints_a_summary_and_writes_the_png(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(packed, png=tmp_path / "sheet.png", samples=5) == 0
    text = capsys.readouterr().out
    assert "24 samples of 3 classes in 1 shard" in text and "9 samples of 3 classes" in text
    assert "0 rejects" in text and "quality 95" in text and "rgb mean" in text
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.size == (5 * CELL, CELL + 16)
    assert show(packed / "val", samples=3) == 0
    assert (packed / "val.png").exists()
    assert not list(packed.glob("*/*.png"))


def test_show_without_a_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="not a packed split"):
        show(tmp_path)
