"""Source pictures → published splits: plan, estimate, pack in parallel, publish. `python -m sharding pack SRC OUT`."""

import contextlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.files import write_atomically
from sharding import classes, job, source
from sharding.errors import ShardError
from sharding.estimate import estimate, in_words
from sharding.executor import open_executor
from sharding.manifest import ClassInfo, Manifest, ShardInfo
from sharding.options import PackOptions
from sharding.pack_index import PackIndex, Spool
from sharding.record import Source, Split
from sharding.shard import ceil_div
from sharding.statistics import Sums
from sharding.worker import ShardNote, ShardTask, finished_note

logger = logging.getLogger(__name__)

_PROBE = 24


def pack(options: PackOptions) -> list[Path]:
    """Pack a source into `options.out/<split>/`; returns the folders of the published splits.

    Without `options.split`, packs train and val where the source has both, else the source as train. A split that is
    already there with the same options is left as it is; a half-done one is carried on. With `dry_run` nothing is
    written. With several workers, call it under `if __name__ == "__main__"`: they import the main module, so keep that
    light. Raises ShardError (what, where, what to do) or OSError.
    """
    if not options.source.exists():
        raise ShardError(f"{options.source}: no such folder; give the folder that holds the source pictures")
    for name, path in options.files().items():
        if not path.exists():
            raise ShardError(f"--{name.replace('_', '-')} {path}: no such file or folder")
    published, table = [], None
    for split in _splits(options):
        packing = SplitPacking(options, split, table)
        if packing.run():
            published.append(packing.final)
        table = packing.table
    return published


def _splits(options: PackOptions) -> list[Split]:
    if options.split is not None:
        return [options.split]
    train, val = (source.has_split(options.source, options.layout, split) for split in ("train", "val"))
    if val and not train:
        raise ShardError(f"{options.source}: holds val but not train; say --split val to pack that alone")
    return ["train", "val"] if train and val else ["train"]


class SplitPacking:
    """One split on its way from source to `out/<split>`. `table` is the class table of the split packed before it."""

    def __init__(self, options: PackOptions, split: Split, table: list[ClassInfo] | None) -> None:
        self.options, self.split, self.table = options, split, table
        self.final, self.work = options.out / split, options.out / f"{split}.partial"
        self.seed = options.seed if split == "train" else None

    def run(self) -> bool:
        """Pack and publish it; True if it is published now."""
        found = source.open_source(self.options.source, self.options.layout, self.split)
        identity = {**self.options.recorded(self.split, found.layout), "source": str(self.options.source)}
        if self.final.exists() and any(self.final.iterdir()):
            self._check_published(identity)
            return True
        if self.options.dry_run:
            pack_index = PackIndex(None, self.seed)
            self._fill(pack_index, found, None)
            probe = pack_index.probe or (sample.read() for sample in pack_index.spread(_PROBE))
            self._announce(pack_index, found.layout, probe, [], _streamed_bytes(found))
            return False
        with job.open_job(self.work, identity) as place:
            if not (self.work / "manifest.json").exists():  # else it was killed while it was being published
                self._make(place, found, identity)
            job.commit_split(self.work, self.final)
        self._check_published(identity)
        return True

    def _make(self, place: Path, found: Source, identity: dict[str, Any]) -> None:
        if not (place / "spooled.json").exists():  # a plan that is filled anew; a kill may have left half of one
            for name in ("plan.sqlite", "plan.sqlite-journal"):
                (place / name).unlink(missing_ok=True)
        with contextlib.closing(PackIndex(place / "plan.sqlite", self.seed)) as pack_index:
            self._fill(pack_index, found, place)
            self._check_unchanged(place / "listing.json", pack_index)
            notes = self._finished(pack_index)
            self._announce(pack_index, found.layout, (sample.read() for sample in pack_index.spread(_PROBE)), notes)
            self._pack_shards(pack_index, place, notes)
        self._conclude(place, identity, sorted(notes, key=lambda note: note.name))

    def _check_published(self, identity: dict[str, Any]) -> None:
        if not (self.final / "manifest.json").exists():
            raise ShardError(f"{self.final}: holds other files, no packed split; move it away, or choose another OUT")
        manifest = Manifest.load(self.final / "manifest.json")
        changed = job.describe_changes({**manifest.options, "source": manifest.source}, identity)
        if changed:
            raise ShardError(
                f"{self.final}: already packed, with other options: {changed}; remove it, or choose another OUT"
            )
        self.table = manifest.classes
        logger.info(
            "%s: packed with these options: %d samples, %d rejects", self.final, manifest.samples, len(manifest.rejects)
        )

    def _fill(self, pack_index: PackIndex, found: Source, place: Path | None) -> None:
        """List the source into the plan, spooling what can only be read in order; give labels, settle the classes."""
        options = self.options
        patches = source.replacements(options.patch_images) if options.patch_images else {}
        spooled = place / "spooled.json" if place and found.streamed else None
        files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in found.streamed]
        if spooled and spooled.exists():
            done = json.loads(spooled.read_bytes())
            if done["files"] != files:
                raise ShardError(f"{options.source}: changed since the job was begun; remove {self.work} to begin anew")
            self.table = [ClassInfo(**entry) for entry in done["table"]]
            return
        if spooled and place:
            with Spool(place / "spool", self.seed is not None, options.samples_per_shard) as spool:
                found = self._check_spool(found)
                pack_index.fill(_listed(found, self.split), patches, spool)
        else:
            pack_index.fill(_listed(found, self.split), patches, None)
        if not len(pack_index):
            raise ShardError(f"{options.source}: no pictures found for split {self.split}; expected {found.expected}")
        if patches:
            logger.info(
                "%s: %d of %d patch images take the place of others", self.split, len(pack_index.patched), len(patches)
            )
        self._settle_classes(pack_index, found)
        if spooled:
            with write_atomically(spooled) as file:
                file.write(
                    json.dumps({"files": files, "table": [asdict(entry) for entry in self.table or []]}).encode()
                )

    def _check_spool(self, found: Source) -> Source:
        """Judge by the first pictures whether spool and shards find room; the source, with all its records.

        Raises ShardError for too little disk, before it is filled.
        """
        options, head = self.options, list(itertools.islice(found.records, _PROBE))
        probe, needed = [record.data for record in head if record.data], _streamed_bytes(found)
        pictures = needed * len(probe) // max(sum(map(len, probe)), 1)
        shards = ceil_div(pictures, options.samples_per_shard)
        estimate(probe, pictures, shards, options, self.split == "train", needed).check_disk(options.out)
        return replace(found, records=itertools.chain(head, found.records))

    def _settle_classes(self, pack_index: PackIndex, found: Source) -> None:
        options = self.options
        kit_path = options.devkit or (source.find_devkit(options.source) if options.source.is_dir() else None)
        kit = classes.Devkit.load(kit_path) if kit_path else None
        example = pack_index.unlabelled()
        if example is not None:
            text = source.ground_truth_text(options.ground_truth, options.source, kit_path, self.split)
            if text is None:
                raise ShardError(f"{example}: its name tells no class; give --ground-truth TXT and --devkit META.mat")
            pack_index.label(classes.ground_truth(text[1], text[0], kit), text[0])
        elif options.ground_truth:
            logger.warning("%s: not used, since every picture's folder or name tells its class", options.ground_truth)
        origin = "the training split"
        sibling = options.out / "train" / "manifest.json"
        if options.classes or (self.split != "train" and not self.table and sibling.exists()):
            origin = str(options.classes or sibling)
            self.table = classes.table_of_manifest(options.classes or sibling)
        elif not self.table and kit:
            self.table, origin = kit.table(), str(kit_path)
        elif not self.table:
            self.table, origin = found.table() or classes.sorted_table(pack_index.wnids(), {}), str(options.source)
        classes.check_known(pack_index.wnids(), self.table, origin)

    def _check_unchanged(self, path: Path, pack_index: PackIndex) -> None:
        """Raise ShardError if the half-done job's shards were cut from another list of pictures, or other labels."""
        now = {"samples": len(pack_index), "pictures": pack_index.digest(), "classes": classes.digest(self.table or [])}
        if not path.exists():
            with write_atomically(path) as file:
                file.write(json.dumps(now).encode())
        elif json.loads(path.read_bytes()) != now:
            raise ShardError(
                f"{self.options.source}: its pictures or classes are not those that the half-done job in {self.work} "
                "was begun with; remove that folder to begin anew"
            )

    def _name(self, number: int) -> str:
        return f"{self.split}-{number:06d}.tar"

    def _finished(self, pack_index: PackIndex) -> list[ShardNote]:
        """The notes of the shards that an earlier run finished."""
        shards = ceil_div(len(pack_index), self.options.samples_per_shard)
        notes = [finished_note(self.work, self._name(number)) for number in range(shards)]
        return [note for note in notes if note is not None]

    def _announce(
        self, pack_index: PackIndex, layout: str, probe: Iterable[bytes], notes: list[ShardNote], spool_bytes: int = 0
    ) -> None:
        """Say how many pictures are left, how large and how long it will be. Raises ShardError for too little disk.

        `spool_bytes`: what a dry run has not spooled.
        """
        options, done = self.options, sum(note.samples + len(note.rejects) for note in notes)
        shards = ceil_div(len(pack_index), options.samples_per_shard)
        left = shards - len(notes)
        expected = estimate(probe, len(pack_index) - done, left, options, self.split == "train", spool_bytes)
        spool = f", {in_words(spool_bytes)} more for the spool meanwhile" * (spool_bytes > 0)
        free = expected.check_disk(options.out)
        if done:
            logger.info("%s: carrying on: %d of %d shards are whole", self.split, len(notes), shards)
        logger.info(
            f"{self.split}: {expected.pictures} pictures of {len(pack_index.wnids())} classes to pack "
            f"(layout: {layout}); "
            f"about {in_words(expected.bytes)} in {left} shard{'s' * (left != 1)}{spool}; {in_words(free)} free in "
            f"{options.out}; about {expected.seconds:.0f} s with {options.workers} workers"
        )

    def _pack_shards(self, pack_index: PackIndex, place: Path, notes: list[ShardNote]) -> None:
        """Pack the shards that are not whole yet, and append their notes."""
        options, whole = self.options, {note.name for note in notes}
        labels = {entry.wnid: entry.label for entry in self.table or []}

        def tasks() -> Iterator[ShardTask]:
            for number, samples in enumerate(pack_index.shards(options.samples_per_shard)):
                if self._name(number) not in whole:
                    yield ShardTask(
                        number=number, name=self._name(number), folder=self.work.absolute(), samples=samples,
                        labels=[labels[sample.wnid] for sample in samples],
                        quality=options.quality, resample=options.resample, encoding=options.encoding,
                        summed=self.split == "train",
                    )  # fmt: skip

        done = sum(note.samples + len(note.rejects) for note in notes)
        job.check_rejects(notes, options.max_rejects, self.work)
        with (
            open_executor(options.workers, options.scheduler) as (executor, slots),
            tqdm(total=len(pack_index), initial=done, unit="image", desc=self.split, mininterval=0.5) as bar,
        ):
            job.run_tasks(tasks(), executor, slots, place, bar, notes, options.max_rejects)

    def _conclude(self, place: Path, identity: dict[str, Any], notes: list[ShardNote]) -> None:
        """Write the statistics (of a training split) and, last, the manifest. Raises ShardError for an empty split."""
        rejects = [reject for note in notes for reject in note.rejects]
        if rejects and not any(note.samples for note in notes):
            raise ShardError(
                f"{self.options.source}: all pictures of split {self.split} were rejected ({len(rejects)}); "
                f"the first: {rejects[0]['source']}: {rejects[0]['reason']}; "
                f"mend them, remove {self.work} and begin anew"
            )
        if self.split == "train":
            sums = Sums()
            for note in notes:
                sums.merge(Sums.load(place / f"{note.name}.npz"))
            sums.finish().save(self.work / "statistics.npz")
        for note in notes:
            if not note.samples:  # every picture of it was rejected; DALI refuses an empty index
                (self.work / note.name).unlink()
                (self.work / note.name).with_suffix(".idx").unlink()
        shards = [ShardInfo(note.name, note.samples, note.bytes, note.sha256) for note in notes if note.samples]
        manifest = Manifest(
            split=self.split,
            encoding=self.options.encoding,
            samples=sum(shard.samples for shard in shards),
            classes=self.table or [],
            options={name: value for name, value in identity.items() if name != "source"},
            shards=shards,
            rejects=rejects,
            source=str(self.options.source),
        )
        manifest.save(self.work / "manifest.json")


def _listed(found: Source, split: Split) -> Iterator[Any]:
    """The source's records, with a count on the screen: listing a million files takes a while."""
    return iter(tqdm(found.records, unit="image", desc=f"{split}: listing", mininterval=1.0, delay=2.0))


def _streamed_bytes(found: Source) -> int:
    """About what spooling the source takes: its pictures are compressed already."""
    return sum(path.stat().st_size for path in found.streamed)
