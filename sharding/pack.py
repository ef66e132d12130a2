"""Source pictures → published splits: plan, estimate, pack in parallel, publish. `python -m sharding pack SRC OUT`."""

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from sharding.classes import check_known, sorted_table, table_of_manifest
from sharding.errors import RejectedImage, ShardError
from sharding.job import check_rejects, describe_changes, local_executor, open_job, publish, run_tasks
from sharding.manifest import ClassInfo, Manifest, ShardInfo
from sharding.options import PackOptions
from sharding.plan import Plan
from sharding.resize import decode_stored, prepare_image
from sharding.source import Split, has_split_folder, open_folder, split_folder
from sharding.statistics import Sums
from sharding.worker import ShardNote, ShardTask, finished_note, read_sample

logger = logging.getLogger(__name__)


def pack(options: PackOptions) -> list[Path]:
    """Pack a source into `options.out/<split>/`; returns the folders of the published splits.

    Without `options.split`, packs train and val where the source has both, else the source as train. A split that is already
    there with the same options is left as it is; a half-done one is carried on. With `dry_run` nothing is written.
    Raises ShardError (what, where, what to do) or OSError.
    """
    if not options.source.exists():
        raise ShardError(f"{options.source}: no such folder; give the folder that holds the source pictures")
    return [folder for split in _splits(options) for folder in _pack_split(options, split)]


def _splits(options: PackOptions) -> list[Split]:
    if options.split is not None:
        return [options.split]
    both = all(has_split_folder(options.source, split) for split in ("train", "val"))
    return ["train", "val"] if both else ["train"]


def _pack_split(options: PackOptions, split: Split) -> list[Path]:
    final, work = options.out / split, options.out / f"{split}.partial"
    folder = split_folder(options.source, split)
    source = open_folder(folder, options.layout)
    identity = {**options.recorded(split, source.layout), "source": str(options.source)}
    if final.exists():
        _check_published(final, identity)
        return [final]
    if options.dry_run:
        plan = Plan(None)
        plan.fill(source.records, options.seed if split == "train" else None)
        _prepare(options, split, plan, folder)
        return []
    with open_job(work, identity) as job:
        if (work / "manifest.json").exists():  # killed while it was being published
            publish(work, final)
            return [final]
        plan = Plan(job / "plan.sqlite")
        plan.fill(source.records, options.seed if split == "train" else None)
        table = _prepare(options, split, plan, folder)
        notes = _run(options, split, plan, table, work, job)
        _conclude(options, split, identity, table, notes, work)
        plan.close()
        publish(work, final)
    return [final]


def _check_published(final: Path, identity: dict[str, object]) -> None:
    manifest = Manifest.load(final / "manifest.json")
    changed = describe_changes({**manifest.options, "source": manifest.source}, identity)
    if changed:
        raise ShardError(f"{final}: already packed, with other options: {changed}; choose another OUT, or remove it")
    logger.info("%s: already packed with these options (%d samples); nothing to do", final, manifest.samples)


def _prepare(options: PackOptions, split: Split, plan: Plan, folder: Path) -> list[ClassInfo]:
    """The class table, and before anything is packed: how many, how large, how long; too little disk is an error."""
    count = len(plan)
    if not count:
        raise ShardError(f"{folder}: no pictures found; expected <class>/<image> folders or <wnid>_<id>.JPEG files")
    wnids = plan.wnids()
    sibling = options.out / "train" / "manifest.json"
    classes = options.classes or (sibling if split != "train" and sibling.exists() else None)
    table = table_of_manifest(classes) if classes else sorted_table(wnids, {})
    check_known(wnids, table, str(classes))
    _estimate(options, split, plan, len(table))
    return table


def _estimate(options: PackOptions, split: Split, plan: Plan, classes: int) -> None:
    count, sizes = len(plan), []
    begun = time.perf_counter()
    for sample in plan.spread(24):
        try:
            stored = prepare_image(
                read_sample(sample), quality=options.quality, resample=options.resample, encoding=options.encoding
            )
            decode_stored(stored, options.encoding)
            sizes.append(2560 + len(stored))
        except RejectedImage:
            continue
    seconds = (time.perf_counter() - begun) / max(len(sizes), 1) * count / options.workers
    expected = int(count * sum(sizes) / max(len(sizes), 1))
    free = shutil.disk_usage(_existing(options.out)).free
    shards = -(-count // options.samples_per_shard)
    logger.info(
        "%s: %d pictures of %d classes, about %.1f MB in %d shards; %.1f GB free in %s; about %.0f s with %d workers",
        split, count, classes, expected / 1e6, shards, free / 1e9, options.out, seconds, options.workers,
    )  # fmt: skip
    if expected > free:
        raise ShardError(f"{options.out}: {free / 1e9:.1f} GB free, about {expected / 1e9:.1f} GB needed")


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.absolute().parent
    return folder


def _run(
    options: PackOptions, split: Split, plan: Plan, table: list[ClassInfo], work: Path, job: Path
) -> list[ShardNote]:
    """Pack the shards that are not yet whole; returns all notes in shard order."""
    notes: list[ShardNote] = []

    def tasks() -> Iterator[ShardTask]:
        labels = {entry.wnid: entry.label for entry in table}
        for number, samples in enumerate(plan.shards(options.samples_per_shard)):
            name = f"{split}-{number:06d}.tar"
            note = finished_note(work, name)
            if note is not None:
                notes.append(note)
                bar.initial += len(samples)
                continue
            yield ShardTask(
                number=number, name=name, folder=work.absolute(), samples=samples, quality=options.quality,
                labels=[labels[sample.wnid] for sample in samples],
                resample=options.resample, encoding=options.encoding,
            )  # fmt: skip

    with (
        tqdm(total=len(plan), unit="image", desc=split, mininterval=0.5) as bar,
        local_executor(options.workers) as executor,
    ):
        notes += run_tasks(tasks(), executor, options.workers, job, bar, options.max_rejects)
    return sorted(notes, key=lambda note: note.name)


def _conclude(
    options: PackOptions,
    split: Split,
    identity: dict[str, object],
    table: list[ClassInfo],
    notes: list[ShardNote],
    work: Path,
) -> None:
    """Write the statistics (of a training split) and, last, the manifest."""
    rejects = [reject for note in notes for reject in note.rejects]
    check_rejects(rejects, options.max_rejects, work)
    if split == "train":
        sums = Sums()
        for note in notes:
            sums.merge(Sums.load(work / "job" / f"{note.name}.npz"))
        sums.finish().save(work / "statistics.npz")
    shards = [ShardInfo(note.name, note.samples, note.bytes, note.sha256) for note in notes]
    recorded = {name: value for name, value in identity.items() if name != "source"}
    manifest = Manifest(
        split=split, encoding=options.encoding, samples=sum(shard.samples for shard in shards), classes=table,
        options=recorded, shards=shards, rejects=rejects, source=str(options.source),
    )  # fmt: skip
    manifest.save(work / "manifest.json")
