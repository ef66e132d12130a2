"""Source pictures → published splits: list, estimate, pack in parallel, publish. `python -m sharding pack SRC OUT`."""

import contextlib
import itertools
import logging
import shutil
import tarfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import ceil_div
from common.command_line import flag
from sharding import job
from sharding.classes import known_table
from sharding.executor import open_executor, prestart, progress_bar
from sharding.job import ShardNote, finished_note, note_path, pack_picture, part_samples
from sharding.listing import count_contents, describe_differences, list_source, source_name
from sharding.manifest import MANIFEST, Manifest, ShardInfo, file_sha256, write_card
from sharding.options import PackOptions
from sharding.pack_index import INDEX, PackIndex
from sharding.record import ClassInfo, RejectedImage, ShardError, Source, Split, split_of_name
from sharding.shard import TABLE, member_bytes, write_table
from sharding.source import has_split, open_source
from sharding.statistics import Sums

logger = logging.getLogger(__name__)

_PROBE = 24


def pack(options: PackOptions) -> list[Path]:
    """Pack a source into `options.out/<split>/`; returns the folders of the published splits.

    Without `options.split`, packs train and val where the source has both, else the source as train. A split that is
    already there with the same options, of the same source, is left as it is; a half-done one is carried on. With
    `dry_run` nothing is written. With several workers, call it under `if __name__ == "__main__"`: they import the main
    module, so keep that light. Raises ShardError (what, where, what to do) or OSError.
    """
    if not options.source.exists():
        raise ShardError(f"{options.source}: no such folder; give the folder that holds the source pictures")
    for name, path in options.files().items():
        if not path.exists():
            raise ShardError(f"{flag(name)} {path}: no such file or folder")
    source, out = options.source.resolve(), options.out.resolve()
    if source.is_dir() and (source == out or source in out.parents or out in source.parents):
        raise ShardError(f"{options.out}: SRC and OUT must lie apart, not one in the other; choose another OUT")
    published, classes = [], None
    for split in _splits(options):
        packing = SplitPacking(options, split, classes)
        if packing.run():
            published.append(options.out / split)
            write_card(options.out)
        classes = packing.classes
    return published


def _splits(options: PackOptions) -> list[Split]:
    if options.split is not None:
        return [options.split]
    train, val = (has_split(options.source, options.layout, split) for split in ("train", "val"))
    if options.val_fraction is not None:
        if val:
            raise ShardError(f"{options.source}: holds a val split already; leave --val-fraction out to pack it")
        return ["train", "val"]
    own = split_of_name(options.source.name) if options.source.is_file() else None
    if val and not train:
        raise ShardError(f"{options.source}: holds val but not train; say --split val to pack that alone")
    return ["train", "val"] if train and val else [own or "train"]


class SplitPacking:
    """One split on its way from source to `out/<split>`. `classes`: those of the split that a dry run listed before."""

    def __init__(self, options: PackOptions, split: Split, classes: list[ClassInfo] | None) -> None:
        self.options, self.split, self.classes = options, split, classes
        self.final, self.work = options.out / split, options.out / f"{split}.partial"
        self.seed = options.seed if split == "train" else None
        self.source = self._open()
        self.spool_bytes = sum(path.stat().st_size for path in self.source.streamed)  # its pictures are compressed

    def _open(self) -> Source:
        shared = self.options.val_fraction is not None  # both splits come from all pictures
        return open_source(self.options.source, self.options.layout, "train" if shared else self.split)

    def run(self) -> bool:
        """Pack and publish it; True if it is published now."""
        if self.final.exists() and any(self.final.iterdir()):
            self._check_published()
        elif self.options.dry_run:
            with contextlib.closing(PackIndex(None, self.seed)) as index:
                self.classes = list_source(self.source, self.options, self.split, index, self.classes).classes
                self._log_estimate(index, [], self.spool_bytes)
            return False
        else:
            with job.open_job(self.work) as folder:
                paths = [self.work / MANIFEST, folder / job.DRAFT]  # the first, if it was killed while it was published
                begun = next((Manifest.load(path, draft=True) for path in paths if path.exists()), None)
                if begun:
                    advice = "give its options to carry on, or remove the folder to begin anew"
                    self._check_options(begun, f"{self.work}: a half-done job, begun", advice)
                if not paths[0].exists():
                    self._make(folder, begun)
                job.commit_split(self.work, self.final)
        return True

    def _check_options(self, begun: Manifest, state: str, advice: str) -> None:
        """Raise ShardError if a published or half-done split has other options than this command."""
        before = {**begun.options, "source": begun.source}
        now = {**self.options.recorded(self.split, self.source.layout), "source": source_name(self.options)}
        names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        changed = ", ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in names)
        if changed:
            raise ShardError(f"{state} with other options: {changed}; {advice}")

    def _check_published(self) -> None:
        """Raise ShardError unless what is published is what this command would make."""
        if not (self.final / MANIFEST).exists():
            raise ShardError(f"{self.final}: holds other files, no packed split; move it away, or choose another OUT")
        manifest = Manifest.load(self.final / MANIFEST)
        anew = f"to pack anew, remove {self.final} and run the same command again, or choose another OUT"
        self._check_options(manifest, f"{self.final}: already packed,", anew)
        differences = describe_differences(manifest.contents, count_contents(self.source, self.options))
        if differences and manifest.contents:
            raise ShardError(f"{self.final}: {self.options.source} has changed since: {differences}; {anew}")
        known = known_table(self.options, self.split)
        if known and known[0] != manifest.classes:
            raise ShardError(f"{self.final}: packed with other classes than {known[1]} has now; {anew}")
        unknown = "" if manifest.contents else " (by a version that did not note whether the source changes)"
        logger.info("%s: already packed with these options%s", self.final, unknown)

    def _make(self, folder: Path, begun: Manifest | None) -> None:
        """List the source, unless that was done and spooled, and pack it; it must be what it was if it was `begun`."""
        spooled = begun is not None and bool(self.source.streamed)
        if not spooled:  # a kill may have left half of an index
            (folder / INDEX).unlink(missing_ok=True)
        prestart(self.options.workers, self.options.scheduler)
        if self.source.streamed and not spooled:  # is there room for its spool?
            head = self._head()
            pictures = self.spool_bytes * len(head) // max(sum(map(len, head)), 1)
            self._estimate(head, pictures, self.spool_bytes)
        with contextlib.closing(PackIndex(folder, self.seed)) as index:
            if begun and spooled:
                draft = replace(begun, contents=count_contents(self.source, self.options))
            else:
                draft = list_source(self.source, self.options, self.split, index)
            if begun is None:
                draft.save(folder / job.DRAFT)
            elif begun != draft:
                what = describe_differences(begun.contents, draft.contents) or "its classes or labels"
                changed = f"has changed since the half-done job in {self.work} was begun: {what}"
                raise ShardError(f"{self.options.source}: {changed}; remove that folder to begin anew")
            shards = ceil_div(len(index), self.options.samples_per_shard)
            tars = [self.work.absolute() / f"{self.split}-{number:06d}.tar" for number in range(shards)]
            notes = [note for note in map(finished_note, tars) if note is not None]
            self._log_estimate(index, notes)
            self._pack_shards(index, tars, {entry.wnid: entry.label for entry in draft.classes}, notes)
        self._conclude(draft, sorted(notes, key=lambda note: note.name))

    def _head(self) -> list[bytes]:
        """The first pictures of a source that can only be read in order, to judge by."""
        return [record.data for record in itertools.islice(self._open().records, _PROBE) if record.data]

    def _log_estimate(self, index: PackIndex, notes: list[ShardNote], spool_bytes: int = 0) -> None:
        """Say how many pictures are left, how large and how long. `spool_bytes`: what a dry run has not spooled."""
        probe = self._head() if spool_bytes else index.probe(_PROBE)
        left, shards = len(index) - _pictures(notes), ceil_div(len(index), self.options.samples_per_shard)
        words = self._estimate(probe, left, spool_bytes)
        if notes:
            logger.info("%s: carrying on: %d of %d shards are whole", self.split, len(notes), shards)
        what = f"{left} pictures of {len(index.wnids())} classes to pack (layout: {self.source.layout})"
        logger.info(f"{self.split}: {what}; {words}")

    def _estimate(self, probe: Iterable[bytes], pictures: int, spool_bytes: int) -> str:
        """Pack the pictures of `probe` for nothing, and scale to `pictures` of them.

        `spool_bytes` are still to be spooled. Returns size, time and room in words. Raises ShardError if the split does
        not fit where it will lie.
        """
        options, sizes, begun, sums = self.options, [], time.process_time(), Sums()
        for data in probe:
            with contextlib.suppress(RejectedImage):
                stored = pack_picture(data, sums, options)
                sizes.append(member_bytes(len(stored)) + member_bytes(4))
        each_bytes, each_seconds = (total / max(len(sizes), 1) for total in (sum(sizes), time.process_time() - begun))
        shards = ceil_div(pictures, options.samples_per_shard)
        total = each_bytes * pictures + shards * tarfile.RECORDSIZE
        joined = each_bytes * min(pictures, options.samples_per_shard)  # parts of a shard, while it is made of them
        kept = shards * (sums.by_position.nbytes + 1000)  # beside each shard, until the end
        needed, free, size = total + joined + kept + spool_bytes, free_bytes(options.out), tqdm.format_sizeof
        spool = f", {size(spool_bytes, 'B')} of it to spool what is only read in order" * (spool_bytes > 0)
        room = f"{options.out}: {size(free, 'B')} free, about {size(needed, 'B')} needed while packing{spool}"
        if needed > free:
            raise ShardError(f"{room}; make room, or choose another OUT or a lower --quality")
        seconds = each_seconds * pictures / options.workers
        what = f"about {size(total, 'B')} in {shards} shard{'s' * (shards != 1)}"
        return f"{what}; {room}; about {seconds:.0f} s with {options.workers} workers"

    def _pack_shards(self, index: PackIndex, tars: list[Path], labels: dict[str, int], notes: list[ShardNote]) -> None:
        """Pack the shards that are not whole yet, and append their notes."""
        options, finished, done = self.options, {note.name for note in notes}, _pictures(notes)
        shards = zip(tars, index.shards(options.samples_per_shard, labels), strict=True)
        missing = ((tar, samples) for tar, samples in shards if tar.name not in finished)
        job.check_rejects(notes, options.max_rejects, self.work)
        with (
            open_executor(options.workers, options.scheduler) as (executor, slots),
            progress_bar(len(index), self.split, done, options.quiet) as bar,
        ):
            samples_per_part = part_samples(len(index) - done, slots)
            job.run_tasks(missing, samples_per_part, options, executor, slots, bar, notes)

    def _conclude(self, draft: Manifest, notes: list[ShardNote]) -> None:
        """Write the statistics (of a training split) and, last, the manifest. Raises ShardError for an empty split."""
        rejects = [reject for note in notes for reject in note.rejects]
        if rejects and not any(note.samples for note in notes):
            first = f"the first: {rejects[0]['source']}: {rejects[0]['reason']}"
            what = f"all pictures of split {self.split} were rejected ({len(rejects)}); {first}"
            raise ShardError(f"{self.options.source}: {what}; mend them, remove {self.work} and begin anew")
        if self.split == "train":
            sums = Sums()
            for note in notes:
                sums.merge(Sums.load(note_path(self.work / note.name)))
            sums.finish().save(self.work / "statistics.npz")
        for note in notes:
            if not note.samples:  # every picture of it was rejected; DALI refuses an empty index
                (self.work / note.name).unlink()
                (self.work / note.name).with_suffix(".idx").unlink()
        notes = [note for note in notes if note.samples]
        shards = [ShardInfo(note.name, note.samples, note.bytes, note.sha256) for note in notes]
        write_table(self.work, shards, (np.load(note_path(self.work / note.name))["rows"] for note in notes))
        names = [*(f"{Path(note.name).stem}.idx" for note in notes), TABLE]
        names += ["statistics.npz"] * (self.split == "train")
        checksums = {name: file_sha256(self.work / name) for name in names}
        samples = sum(shard.samples for shard in shards)
        whole = replace(draft, samples=samples, shards=shards, rejects=rejects, checksums=checksums)
        whole.save(self.work / MANIFEST)


def _pictures(notes: list[ShardNote]) -> int:
    return sum(note.samples + len(note.rejects) for note in notes)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk where `folder` is, or will be made."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
