"""The demo's pictures: every digit once, every fifth one held out, various sizes, the same bytes every time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def write(out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "digits.py"), str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_digit_is_written_once_and_every_fifth_held_out(tmp_path: Path) -> None:
    out = tmp_path / "digits"
    assert write(out).returncode == 0
    first = {file.relative_to(out): file.read_bytes() for file in out.rglob("*.jpg")}
    assert write(out).returncode == 0  # over the first
    assert first == {file.relative_to(out): file.read_bytes() for file in out.rglob("*.jpg")}

    digits = load_digits()
    assert len(first) == len(digits.target) == 1797
    sizes = set()
    for file in first:
        split, label, name = file.parts
        number = int(name.removeprefix("digit-").removesuffix(".jpg"))
        assert split == ("val" if number % 5 == 4 else "train")
        assert int(label) == digits.target[number]
        if number % 60 == 0:
            picture = Image.open(out / file)
            sizes.add(picture.size)
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = (
                picture.convert("L").crop((left, top, left + side, top + side)).resize((8, 8), Image.Resampling.BOX)
            )
            correlation = np.corrcoef(np.asarray(square).ravel(), digits.images[number].ravel())[0, 1]
            assert correlation > 0.9, (file, correlation)
    assert len(sizes) > 20


def test_a_folder_that_cannot_be_written_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run = write(tmp_path / "file" / "digits")
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: {tmp_path}") and run.stderr.count("\n") == 1
