"""What does packing cost beside the seed's way, does it scale with workers, and does it bear ImageNet's size?

    the seed's way   as github AsteroidHunter/replicatingAlexNet resizes, on the same photographs: Pillow opens, Lanczos
                     of the whole picture, central crop, saved at Pillow's default quality, a file a picture
    ours             the whole command on one worker, or on N: listing, order, estimate; decode, exact area average,
                     quality 95, decode what was written, sums for the statistics; checksums, flushed to the disk

Leaves `<out>/pack.{json,md,png}`.
"""

import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.data import photographs, repeat
from benchmarks.measure import Repeat, doubling, interleave, timed
from benchmarks.results import Table
from sharding import PackOptions, pack
from sharding.options import CORES

OPERATIONS = (
    "decode, shorter side to 256, central 256×256, encode; ours also decodes what it wrote, sums mean image and "
    "covariance, and writes through to the disk"
)
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, lanczos": {"resample": "lanczos"},
    "ours, raw": {"encoding": "raw"},
}


def run(quick: bool) -> Table:
    """Measure all cases."""
    files, what = photographs()
    files, repeats, times = (files[:24], 2, 1) if quick else (files, 5, 3)
    cases = OURS | {f"ours, {workers} workers": {"workers": workers} for workers in doubling(CORES) if workers > 1}
    with tempfile.TemporaryDirectory(prefix="bench-pack-") as name:
        source, out = repeat(files, times * len(files), Path(name) / "repeated"), Path(name) / "out"
        works = {"the seed's way": partial(seed, source, out)}
        works |= {name: partial(ours, source, out, **options) for name, options in cases.items()}
        rows = interleave(works, repeats)
    theirs = rows["the seed's way"] = replace(rows["the seed's way"], note="quality 75")
    return Table(
        title="Packing photographs into shards",
        rows=list(rows.values()),
        data_set={"pictures": what, "used": len(files)},
        operations=OPERATIONS,
        ours="ours",
        headlines=[rows["ours"].headline("packing photographs, one process", {"× the seed's way": [theirs]})],
    )


def seed(source: Path, out: Path) -> Repeat:
    """Resize as the seed does, into a folder of files."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()

    def work() -> int:
        files = sorted(source.iterdir())
        for file in files:
            with Image.open(file) as opened:
                image = opened.convert("RGB") if opened.mode != "RGB" else opened
                width, height = image.size
                size = (256, int(256 * height / width)) if width < height else (int(256 * width / height), 256)
                image = image.resize(size, Image.Resampling.LANCZOS)
                left, top = (image.width - 256) // 2, (image.height - 256) // 2
                image.crop((left, top, left + 256, top + 256)).save(out / f"{file.stem}.JPEG")
        return len(files)

    return timed(work)


def ours(source: Path, out: Path, workers: int = 1, **options: Any) -> Repeat:
    """Pack as the command does."""
    shutil.rmtree(out, ignore_errors=True)
    pictures = len(list(source.iterdir()))

    def work() -> int:
        pack(PackOptions(source=source, out=out, workers=workers, **options))
        return pictures

    return timed(work)
