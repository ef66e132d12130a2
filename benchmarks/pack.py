"""What does packing cost beside the seed's way, does it scale with workers, and does it bear ImageNet's size?

    the seed's way   as github AsteroidHunter/replicatingAlexNet resizes, on the same photographs: Pillow opens, Lanczos
                     of the whole picture, central crop, saved at Pillow's default quality, a file a picture
    ours             what one worker does for one shard of one part: decode, exact area average, quality 95, decode what
                     was written, sums for the statistics, checksum, tar, index, flushed to the disk
    ours, lanczos / raw
    N workers        the whole command on the photographs, several times over: listing, order, estimate, workers

Leaves `<out>/pack.{json,md,png}`.
"""

import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.data import photographs, repeat
from benchmarks.measure import Repeat, doubling, interleave, timed
from benchmarks.results import Table
from sharding import PackOptions, pack
from sharding.job import join_parts, pack_part
from sharding.options import CORES
from sharding.pack_index import Sample
from sharding.record import Encoding, Resample

OPERATIONS = (
    "decode, shorter side to 256, central 256×256, encode; ours also decodes what it wrote, sums mean image and "
    "covariance, and writes through to the disk"
)
OURS: dict[str, tuple[Resample, Encoding]] = {
    "ours": ("area", "jpeg"),
    "ours, lanczos": ("lanczos", "jpeg"),
    "ours, raw": ("area", "raw"),
}


def run(quick: bool) -> Table:
    """Measure all cases."""
    files, what = photographs()
    files, repeats, times = (files[:24], 2, 1) if quick else (files, 5, 3)
    with tempfile.TemporaryDirectory(prefix="bench-pack-") as name:
        work = Path(name)
        source = repeat(files, times * len(files), work / "repeated")
        works = {"the seed's way": partial(seed, files, work / "seed")}
        works |= {name: partial(ours, files, work / "ours", *options) for name, options in OURS.items()}
        for workers in doubling(CORES):
            works[f"{workers} worker{'s' * (workers > 1)}"] = partial(command, source, work / "command", workers)
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


def seed(files: tuple[Path, ...], folder: Path) -> Repeat:
    """Resize as the seed does, into a folder of files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    def work() -> int:
        for file in files:
            with Image.open(file) as opened:
                image = opened.convert("RGB") if opened.mode != "RGB" else opened
                width, height = image.size
                size = (256, int(256 * height / width)) if width < height else (int(256 * width / height), 256)
                image = image.resize(size, Image.Resampling.LANCZOS)
                left, top = (image.width - 256) // 2, (image.height - 256) // 2
                image.crop((left, top, left + 256, top + 256)).save(folder / f"{file.stem}.JPEG")
        return len(files)

    return timed(work)


def ours(files: tuple[Path, ...], folder: Path, resample: Resample, encoding: Encoding) -> Repeat:
    """Pack one shard as a worker does."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "job").mkdir(parents=True)
    samples = [Sample(file.stem, file.name, 0, str(file), 0, -1) for file in files]
    options = PackOptions(source=folder, out=folder, resample=resample, encoding=encoding)
    part = folder / "job" / "train-000000.tar.part"

    def work() -> int:
        pack_part(part, samples, options)
        return join_parts(folder / "train-000000.tar", [part], encoding).samples

    return timed(work)


def command(source: Path, out: Path, workers: int) -> Repeat:
    """The whole `pack` on `workers` worker processes."""
    shutil.rmtree(out, ignore_errors=True)
    pictures = len(list(source.iterdir()))
    options = PackOptions(source=source, out=out, workers=workers, samples_per_shard=max(8, pictures // 24))

    def packing() -> int:
        pack(options)
        return pictures

    return timed(packing)
