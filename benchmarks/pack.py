"""What does packing cost beside the seed's way, does it scale with workers, and does it bear ImageNet's size?

    the seed's way   as github AsteroidHunter/replicatingAlexNet resizes, on the same photographs: Pillow opens, Lanczos
                     of the whole picture, central crop, saved at Pillow's default quality, a file a picture
    ours             what one worker does for one shard of one part: decode, exact area average, quality 95, decode what
                     was written, sums for the statistics, checksum, tar, index, flushed to the disk
    ours, lanczos / raw
    N workers        the whole command on the photographs, several times over: listing, order, estimate, workers

Leaves `<out>/pack.{json,md,png}`; the JSON also has bytes a picture and the ratio to the seed.
"""

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.data import photographs
from benchmarks.measure import Case, Repeat, interleave, timed
from benchmarks.results import write_tables
from sharding import PackOptions, pack
from sharding.pack_index import Sample
from sharding.record import Encoding, Resample
from sharding.worker import PartTask, join_parts, pack_part

OPERATIONS = (
    "decode, shorter side to 256, central 256×256, encode; ours also decodes what it wrote, sums mean image and "
    "covariance, and writes through to the disk"
)


def run(quick: bool, out: Path) -> None:
    """Measure, print and write `out`/pack.{json,md,png}."""
    files, what = photographs()
    files, repeats, times = (files[:24], 2, 1) if quick else (files, 5, 3)
    with tempfile.TemporaryDirectory(prefix="bench-pack-") as name:
        work = Path(name)
        repeated = repeat(files, times, work / "repeated")
        cases = [
            Case(name="the seed's way", repeat=partial(seed, files, work / "seed"), note="quality 75"),
            Case(name="ours", repeat=partial(ours, files, work / "ours"), reference="ours"),
            Case(name="ours, lanczos", repeat=partial(ours, files, work / "lanczos", resample="lanczos")),
            Case(name="ours, raw", repeat=partial(ours, files, work / "raw", encoding="raw")),
        ]
        cases += [
            Case(name=f"{workers} worker{'s' * (workers > 1)}", repeat=partial(command, repeated, work, workers))
            for workers in worker_counts()
        ]
        rows = interleave(cases, repeats)
        folders = {"the seed's way": "seed", "ours": "ours", "ours, lanczos": "lanczos", "ours, raw": "raw"}
        write_tables(
            "pack",
            rows,
            headlines=[rows[1].headline("packing photographs, one process", {"× the seed's way": [rows[0]]})],
            out=out,
            title="Packing photographs into shards",
            data_set={"pictures": what, "used": len(files)},
            operations=OPERATIONS,
            quick=quick,
            extra={
                "bytes_a_picture": {case: mean_bytes(work / folder) for case, folder in folders.items()},
                "times_the_seeds_images_per_cpu_second": {
                    row.name: round(row.rate().over(rows[0].rate()).median, 3) for row in rows
                },
            },
        )


def worker_counts() -> list[int]:
    """1, 2, 4 … up to the cores there are."""
    cores = len(os.sched_getaffinity(0))
    return sorted({1, cores, *(2**power for power in range(10) if 2**power < cores)})


def repeat(files: tuple[Path, ...], times: int, folder: Path) -> Path:
    """A flat folder of links to the photographs, each `times` times."""
    folder.mkdir()
    for file in files:
        for turn in range(times):
            (folder / f"{file.stem}-{turn}{file.suffix}").symlink_to(file)
    return folder


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


def ours(files: tuple[Path, ...], folder: Path, resample: Resample = "area", encoding: Encoding = "jpeg") -> Repeat:
    """Pack one shard as a worker does."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "job").mkdir(parents=True)
    samples = [Sample(file.stem, file.name, "", str(file), 0, -1) for file in files]
    options = PackOptions(source=folder, out=folder, resample=resample, encoding=encoding)
    tar, labels = folder / "train-000000.tar", [0] * len(samples)
    task = PartTask(tar=tar, part=0, samples=samples, labels=labels, options=options, summed=True)
    return timed(lambda: join_parts(tar, [task.path], pack_part(task), encoding).samples)


def command(source: Path, work: Path, workers: int) -> Repeat:
    """The whole `pack` on `workers` worker processes."""
    shutil.rmtree(work / "command", ignore_errors=True)
    pictures = len(list(source.iterdir()))
    options = PackOptions(
        source=source, out=work / "command", workers=workers, samples_per_shard=max(8, pictures // 24)
    )

    def packing() -> int:
        pack(options)
        return pictures

    return timed(packing)


def mean_bytes(folder: Path) -> float:
    """Bytes a picture of what a case wrote: pictures alone, without what tar adds."""
    indexes = list(folder.glob("*.idx"))
    if not indexes:
        sizes = [file.stat().st_size for file in folder.iterdir()]
    else:
        sizes = [int(line.split()[2]) for line in indexes[0].read_text().splitlines()[1:]]
    return sum(sizes) / len(sizes)
