"""A packed split, opened for reading: pictures as views of memory-mapped tars, labels, classes, statistics.

A shard must not change while it is open: a tar that is cut short under its mapping kills the process (SIGBUS).
"""

import ctypes
import errno
import functools
import hashlib
import json
import mmap
import os
import resource
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.manifest import MANIFEST, SUFFIX, Manifest
from sharding.record import ClassInfo, ShardError
from sharding.shard import BLOCK, TABLE, header_at, member_bytes, npy_header, open_table
from sharding.statistics import Statistics

SPARE_FILES = 256
"""Descriptors left for what else a process opens: indexes, checkpoints, logs, libraries. A mapped tar holds one."""

Numbers = NDArray[np.int64]
Ids = Sequence[int] | Numbers
_RAW_SHAPE = (256, 256, 3)
_RAW_BYTES = 256 * 256 * 3
_RAW_HEADER = npy_header(np.dtype(np.uint8), _RAW_SHAPE)


class ShardSet:
    """One packed split. A sample's id is its position in the split: shards in manifest order, samples in tar order.

    Opening reads the manifest, checks that every shard is there at its full size, and maps the table of samples; where
    there is none, it reads every header of the tars. Can be pickled (it is opened again), used in a `with` statement,
    and read by several threads.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.split = manifest.split
        self.encoding = manifest.encoding
        self.classes: tuple[ClassInfo, ...] = tuple(manifest.classes)
        self.options: dict[str, Any] = manifest.options
        self.shard_names = [shard.name for shard in manifest.shards]
        self.shard_sizes = np.array([shard.samples for shard in manifest.shards], np.int64)
        self._known_labels = np.array(sorted(entry.label for entry in manifest.classes), np.int64)
        self._tar_bytes = np.array([shard.bytes for shard in manifest.shards], np.int64)
        self._ends = np.cumsum(self.shard_sizes)
        self.manifest = manifest
        self._scattered = False
        self._rows = open_table(path, manifest)
        self.close()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "ShardSet":
        """Open the split in folder `path`. Raises ShardError if it is not a whole split."""
        folder = Path(path)
        if not (folder / MANIFEST).exists():
            what = "not a packed split, it has no manifest.json" if folder.is_dir() else "no such folder"
            partial = folder.with_name(f"{folder.name}.partial")
            carry_on = f"{partial} is a half-done job: run its pack command again, it carries on"
            make = "make it with: python -m sharding pack SRC OUT"
            raise ShardError(f"{folder}: {what}; {carry_on if partial.is_dir() else make}")
        manifest = Manifest.load(folder / MANIFEST)
        present = {path.name for path in folder.iterdir()}
        for shard in manifest.shards:
            tar, index = folder / shard.name, f"{shard.name.removesuffix('.tar')}.idx"
            if shard.name not in present:
                raise ShardError(f"{tar}: missing, though {folder / MANIFEST} names it; pack the split again")
            size = tar.stat().st_size
            if size != shard.bytes:
                raise ShardError(f"{tar}: {size} bytes, the manifest says {shard.bytes}; pack the split again")
            if index not in present:
                raise ShardError(f"{folder / index}: missing; make it with `wds2idx {shard.name} {index}`")
        return cls(folder, manifest)

    def __len__(self) -> int:
        return self.manifest.samples

    def __enter__(self) -> "ShardSet":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return (ShardSet.open, (self.path,))

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over the shards' checksums and the class table: equal sets have equal fingerprints."""
        table = [[entry.label, entry.wnid, entry.name] for entry in self.classes]
        content = json.dumps([[shard.sha256 for shard in self.manifest.shards], table], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    @functools.cached_property
    def statistics(self) -> Statistics:
        """This split's statistics, or those of the training split beside it. Raises ShardError if there are none."""
        for path in (self.path / "statistics.npz", self.path.parent / "train" / "statistics.npz"):
            if path.exists():
                return Statistics.load(path)
        advice = "pack the training split into the same folder (python -m sharding pack SRC OUT --split train)"
        raise ShardError(f"{self.path}: no statistics.npz here nor in {self.path.parent / 'train'}; {advice}")

    def labels(self, ids: Ids) -> Numbers:
        """Labels int64 [n] of the samples `ids`. Raises ShardError for one outside the class table."""
        samples, _, rows = self._locate(ids)
        labels: Numbers = rows["label"].astype(np.int64)
        nearest = np.searchsorted(self._known_labels[:-1], labels)
        unknown = np.flatnonzero(self._known_labels[nearest] != labels)
        if unknown.size:
            what = f"label {labels[unknown[0]]}, which is not in the manifest's table of {len(self.classes)} classes"
            raise self.damaged(int(samples[unknown[0]]), f"has {what}")
        return labels

    def images(self, ids: Ids) -> list[NDArray[np.uint8]]:
        """Pictures of the samples `ids`: read-only uint8 views of the mapped tars, valid while any refers to them.

        For encoding "jpeg" each is 1-D, the JPEG's bytes; for "raw" it is [256, 256, 3], RGB 0..255.
        Raises ShardError for raw pixels without the header that belongs to them.
        """
        _, shards, rows = self._locate(ids)
        if self.encoding == "raw":
            self.addresses(ids)  # checks the headers
        bounds = zip(shards.tolist(), rows["picture_bytes"].tolist(), rows["picture_start"].tolist(), strict=True)
        views = [np.frombuffer(self._map(shard), np.uint8, size, start) for shard, size, start in bounds]
        return views if self.encoding == "jpeg" else [view[len(_RAW_HEADER) :].reshape(_RAW_SHAPE) for view in views]

    def addresses(self, ids: Ids) -> tuple[Numbers, Numbers]:
        """Memory addresses of the pictures of samples `ids`, and their sizes in bytes: int64 [n] each.

        For encoding "jpeg" a whole JPEG lies there; for "raw" uint8 [256, 256, 3], RGB 0..255. The bytes are read-only
        and stay mapped until this set is closed. Raises ShardError as `images` does.
        """
        samples, shards, rows = self._locate(ids)
        for shard in np.unique(shards[self._bases[shards] == 0]).tolist():
            self._bases[shard] = np.frombuffer(self._map(shard), np.uint8).__array_interface__["data"][0]
        addresses = self._bases[shards] + rows["picture_start"]
        sizes: Numbers = rows["picture_bytes"].astype(np.int64)
        if self.encoding == "jpeg":
            return addresses, sizes
        header = len(_RAW_HEADER)
        for sample, address, size in zip(samples.tolist(), addresses.tolist(), sizes.tolist(), strict=True):
            actual = ctypes.string_at(address, min(header, size))
            if actual != _RAW_HEADER or size != header + _RAW_BYTES:
                what = f"is no .npy of uint8 {_RAW_SHAPE} ({size} bytes, its header is {actual!r})"
                raise self.damaged(sample, what)
        return addresses + header, sizes - header

    def mappings(self) -> Mapping[int, mmap.mmap]:
        """The tars that are mapped: `addresses` stay good while this is referred to, whoever closes the set."""
        return self._maps

    def locate(self, sample_id: int) -> tuple[str, str]:
        """The shard's name and the key of one sample, for messages: by its header, which follows the one before it."""
        _, (shard,) = self._shards_of([sample_id])
        start = BLOCK
        if sample_id > self._ends[shard] - self.shard_sizes[shard]:
            picture_start, picture_bytes, label = self._rows[sample_id - 1].tolist()
            start = picture_start + member_bytes(picture_bytes) + member_bytes(len(str(label)))
        try:
            name = header_at(self._map(int(shard)), start).name
        except tarfile.HeaderError as error:
            where = f"{self.path / self.shard_names[shard]}: no header of sample {sample_id} at byte {start - BLOCK}"
            raise ShardError(f"{where} ({error}); check the set with: python -m sharding verify {self.path}") from None
        return self.shard_names[shard], name.removesuffix(f".{SUFFIX[self.encoding]}")

    def read_scattered(self) -> None:
        """From now on samples come in any order: a page that is touched brings no others from the disk with it."""
        self._scattered = True
        for tar in self._maps.values():
            tar.madvise(mmap.MADV_RANDOM)

    def ask_for(self, ids: Ids) -> None:
        """Ask the system to read these samples, and nothing around them, into the page cache (returns at once)."""
        _, shards, rows = self._locate(ids)
        starts = rows["picture_start"] // mmap.PAGESIZE * mmap.PAGESIZE
        ends = rows["picture_start"] + rows["picture_bytes"]
        for shard, start, size in zip(shards.tolist(), starts.tolist(), (ends - starts).tolist(), strict=True):
            self._map(shard).madvise(mmap.MADV_WILLNEED, start, size)

    def prefetch(self, shard: int) -> None:
        """Ask the system to read one shard ahead into the page cache (returns at once)."""
        self._map(shard).madvise(mmap.MADV_WILLNEED)

    def release(self, shard: int) -> None:
        """Let one shard's pages leave this process, so that its resident memory falls; views stay valid."""
        self._map(shard).madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the tars. A tar whose views are still in use is unmapped with the last of them."""
        self._maps: dict[int, mmap.mmap] = {}
        self._bases = np.zeros(len(self.shard_names), np.int64)

    def _locate(self, ids: Ids) -> tuple[Numbers, Numbers, NDArray[np.void]]:
        """The ids as an array, the numbers of their shards, and their rows of the table: [n] each."""
        samples, shards = self._shards_of(ids)
        rows = self._rows[samples]
        ends = rows["picture_start"] + rows["picture_bytes"]
        outside = np.flatnonzero(
            (rows["picture_start"] < BLOCK) | (rows["picture_bytes"] < 1) | (ends > self._tar_bytes[shards])
        )
        if outside.size:
            raise self.damaged(int(samples[outside[0]]), f"lies outside of its shard by the table of samples, {TABLE}")
        return samples, shards, rows

    def _shards_of(self, ids: Ids) -> tuple[Numbers, Numbers]:
        samples = np.asarray(ids, np.int64)
        outside = samples[(samples < 0) | (samples >= len(self))]
        if outside.size:
            raise ShardError(f"{self.path}: sample {outside[0]} asked for, ids go from 0 to {len(self) - 1}")
        return samples, np.searchsorted(self._ends, samples, side="right")

    def damaged(self, sample: int, what: str) -> ShardError:
        """The error for a sample in which something is wrong: names shard and key, and how to check the set."""
        (shard, key), check = self.locate(sample), f"check the set with: python -m sharding verify {self.path}"
        return ShardError(f"{self.path / shard}: sample {key} {what}; {check}")

    def _map(self, shard: int) -> mmap.mmap:
        tar = self._maps.get(shard)
        if tar is not None:
            return tar
        if not self._maps:
            _raise_file_limit(len(self.shard_names))
        path = self.path / self.shard_names[shard]
        try:
            with path.open("rb") as file:
                tar = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            limit, count = resource.getrlimit(resource.RLIMIT_NOFILE)[1], len(self.shard_names)
            what = f"may hold {limit} files open (hard limit), the set has {count} shards, each mapped"
            advice = f"raise the limit (as root: ulimit -n {count + 2 * SPARE_FILES}), or pack fewer, larger shards"
            raise ShardError(f"{path}: this process {what}; {advice}") from None
        if self._scattered:
            tar.madvise(mmap.MADV_RANDOM)
        return self._maps.setdefault(shard, tar)  # another thread's, if it came first: addresses point into it


def _raise_file_limit(files: int) -> None:
    """Raise this process's limit for `files` more than are open now, as far as the hard limit lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(list(Path("/proc/self/fd").iterdir())) + files + SPARE_FILES
    limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and limit > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
