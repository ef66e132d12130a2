"""The digits that ship inside scikit-learn → folders of JPEGs that stand for a small ImageNet.

Enters: nothing. Leaves `OUT/train/<digit>/` and `OUT/val/<digit>/`, 1,797 scanned digits in ten classes as
gray-on-RGB JPEGs of 180 to 400 pixels a side, every fifth one in `val`; the same files on every run.

    python scripts/digits.py OUT
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from common.command_line import Parser
from common.errors import run_command

HELD_OUT_EVERY = 5
GRAY_LEVELS = 16  # load_digits gives 0..16, ink bright


def write_digits(out: Path) -> int:
    """Write the folders, say so, and return 0. `out` appears whole, or not at all."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    digits = load_digits()
    random = np.random.default_rng(2012)
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target)):
        split = "val" if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train"
        folder = part / split / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        height, width = (int(side) for side in random.integers(180, 401, size=2))
        gray = Image.fromarray((pixels * (255 / GRAY_LEVELS)).astype(np.uint8))
        picture = gray.resize((min(height, width),) * 2, Image.Resampling.BICUBIC)
        canvas = Image.new("RGB", (width, height))
        canvas.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
        canvas.save(folder / f"digit-{number:04d}.jpg", quality=90)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    sys.stdout.write(f"{len(digits.target)} digits in {out}\n")
    return 0


if __name__ == "__main__":
    parser = Parser(prog="digits.py", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; what it held is replaced")
    sys.exit(run_command(lambda: write_digits(parser.parse_args().out)))
