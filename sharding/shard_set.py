"""A packed split, opened for reading: pictures as views of memory-mapped tars, labels, classes, statistics.

A shard must not change while it is open: a tar that is cut short under its mapping kills the process (SIGBUS).
"""

import functools
import hashlib
import io
import json
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharding.descriptors import explained, make_room
from sharding.errors import ShardError
from sharding.manifest import ClassInfo, Manifest
from sharding.shard import SUFFIX, ShardIndex, read_index, read_keys
from sharding.statistics import Statistics

_RAW_SHAPE = (256, 256, 3)


def _raw_header() -> bytes:
    """The bytes of a raw sample before its pixels, as NumPy writes them."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(np.empty(_RAW_SHAPE, np.uint8)))
    return file.getvalue()


_RAW_HEADER = _raw_header()


class ShardSet:
    """One packed split. A sample's id is its place in the split: shards in manifest order, samples in tar order.

    Opening reads the manifest and checks that every shard is there at its full size; indexes are read, and compared
    with the layout of a tar, when they are first needed. Can be pickled (it is opened again), and used in a `with`
    statement.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.split = manifest.split
        self.encoding = manifest.encoding
        self.classes: tuple[ClassInfo, ...] = tuple(manifest.classes)
        self._known_labels = frozenset(entry.label for entry in manifest.classes)
        self.options: dict[str, Any] = manifest.options
        self.shard_names = [shard.name for shard in manifest.shards]
        self.shard_sizes = np.array([shard.samples for shard in manifest.shards], np.int64)
        self._tar_bytes = [shard.bytes for shard in manifest.shards]
        self._ends = np.cumsum(self.shard_sizes)
        self._fingerprint = functools.partial(_fingerprint, manifest)
        self._maps: dict[int, mmap.mmap] = {}
        self._scattered = False
        self._indexes: dict[int, ShardIndex] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "ShardSet":
        """Open the split in folder `path`. Raises ShardError if it is not a whole split."""
        folder = Path(path)
        if not folder.is_dir():
            raise ShardError(f"{folder}: no such folder{_unfinished(folder)}")
        if not (folder / "manifest.json").exists():
            raise ShardError(f"{folder}: not a packed split, it has no manifest.json{_unfinished(folder)}")
        manifest = Manifest.load(folder / "manifest.json")
        for shard in manifest.shards:
            _check_files(folder, shard.name, shard.bytes)
        return cls(folder, manifest)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __enter__(self) -> "ShardSet":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return (ShardSet.open, (self.path,))

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over the shards' checksums and the class table: equal sets have equal fingerprints."""
        return self._fingerprint()

    @functools.cached_property
    def statistics(self) -> Statistics:
        """This split's statistics, or those of the training split beside it. Raises ShardError if there are none."""
        for place in (self.path / "statistics.npz", self.path.parent / "train" / "statistics.npz"):
            if place.exists():
                return Statistics.load(place)
        raise ShardError(
            f"{self.path}: no statistics.npz here nor in {self.path.parent / 'train'}; "
            "pack the training split into the same folder (python -m sharding pack SRC OUT --split train)"
        )

    def labels(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Labels int64 [n] of the samples `ids`, read from the tars. ShardError for one outside the class table."""
        places = self._places(ids)
        found = np.empty(len(places), np.int64)
        shard = sample = 0
        try:
            for place, (shard, sample) in enumerate(places):
                index = self._index(shard)
                start = index.label_start[sample]
                found[place] = int(self._map(shard)[start : start + index.label_bytes[sample]])
        except ShardError:
            raise
        except (ValueError, OverflowError) as error:
            raise self._damaged(shard, sample, f"has a label that is no number ({error})") from error
        labels = found.tolist()
        if not self._known_labels.issuperset(labels):
            outside = next(place for place, label in enumerate(labels) if label not in self._known_labels)
            what = f"has label {labels[outside]}, which is not in the manifest's table of {len(self.classes)} classes"
            raise self._damaged(*places[outside], what)
        return found

    def images(self, ids: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Pictures of the samples `ids`: read-only uint8 views of the mapped tars, valid while this set is open.

        For encoding "jpeg" each is 1-D, the JPEG's bytes; for "raw" it is [256, 256, 3], RGB 0..255.
        Raises ShardError for raw pixels without the header that belongs to them.
        """
        views = []
        shard = sample = 0
        try:
            for shard, sample in self._places(ids):
                index = self._index(shard)
                start, size = int(index.picture_start[sample]), int(index.picture_bytes[sample])
                view = np.frombuffer(self._map(shard), np.uint8, count=size, offset=start)
                views.append(view if self.encoding == "jpeg" else _raw_pixels(view))
        except ShardError:
            raise
        except ValueError as error:
            raise self._damaged(shard, sample, f"is no .npy of uint8 {_RAW_SHAPE} ({error})") from error
        return views

    def locate(self, sample_id: int) -> tuple[str, str]:
        """The shard's name and the key of one sample, for messages."""
        ((shard, sample),) = self._places([sample_id])
        return self.shard_names[shard], read_keys(self._tar(shard).with_suffix(".idx"), SUFFIX[self.encoding])[sample]

    def read_scattered(self) -> None:
        """From now on samples come in any order: a page that is touched brings no others from the disk with it."""
        self._scattered = True
        for tar in self._maps.values():
            tar.madvise(mmap.MADV_RANDOM)

    def ask_for(self, ids: Sequence[int] | np.ndarray) -> None:
        """Ask the system to read these samples, and nothing around them, into the page cache (returns at once)."""
        for shard, sample in self._places(ids):
            index = self._index(shard)
            ends = (
                index.picture_start[sample] + index.picture_bytes[sample],
                index.label_start[sample] + index.label_bytes[sample],
            )
            first = min(index.picture_start[sample], index.label_start[sample]) // mmap.PAGESIZE * mmap.PAGESIZE
            self._map(shard).madvise(mmap.MADV_WILLNEED, int(first), int(max(ends) - first))

    def prefetch(self, shard: int) -> None:
        """Ask the system to read one shard ahead into the page cache (returns at once)."""
        self._map(shard).madvise(mmap.MADV_WILLNEED)

    def release(self, shard: int, evict: bool = True) -> None:
        """Tell the system that one shard's pages will not be needed soon. Its views stay valid.

        The pages leave this process (its resident memory falls) and, with `evict`, the page cache.
        """
        self._map(shard).madvise(mmap.MADV_DONTNEED)
        if not evict:
            return
        descriptor = os.open(self._tar(shard), os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the tars. A tar whose views are still in use is unmapped with the last of them."""
        self._maps.clear()
        self._indexes.clear()

    def _places(self, ids: Sequence[int] | np.ndarray) -> list[tuple[int, int]]:
        wanted = np.asarray(ids, np.int64)
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if outside.size:
            raise ShardError(f"{self.path}: sample {outside[0]} asked for, ids go from 0 to {len(self) - 1}")
        shards = np.searchsorted(self._ends, wanted, side="right")
        samples = wanted - (self._ends - self.shard_sizes)[shards]
        return list(zip(shards.tolist(), samples.tolist()))

    def _damaged(self, shard: int, sample: int, what: str) -> ShardError:
        key = read_keys(self._tar(shard).with_suffix(".idx"), SUFFIX[self.encoding])[sample]
        return ShardError(
            f"{self._tar(shard)}: sample {key} {what}; check the set with: python -m sharding verify {self.path}"
        )

    def _tar(self, shard: int) -> Path:
        return self.path / self.shard_names[shard]

    def _map(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            tar = self._tar(shard)
            if not self._maps:
                make_room(len(self.shard_names))
            try:
                with tar.open("rb") as file:
                    self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise explained(error, tar, len(self.shard_names)) from error
            if self._scattered:
                self._maps[shard].madvise(mmap.MADV_RANDOM)
        return self._maps[shard]

    def _index(self, shard: int) -> ShardIndex:
        if shard not in self._indexes:
            path = self._tar(shard).with_suffix(".idx")
            index = read_index(path, SUFFIX[self.encoding])
            if len(index) != self.shard_sizes[shard]:
                raise ShardError(f"{path}: {len(index)} samples, the manifest says {self.shard_sizes[shard]}")
            misfit = index.first_misfit(self._tar_bytes[shard])
            if misfit is not None:
                raise ShardError(
                    f"{path}: sample {read_keys(path, SUFFIX[self.encoding])[misfit]} does not lie in "
                    f"{self.shard_names[shard]} where this index says; make the index anew with wds2idx, and "
                    f"check the set with: python -m sharding verify {self.path}"
                )
            self._indexes[shard] = index
        return self._indexes[shard]


def _check_files(folder: Path, name: str, size: int) -> None:
    tar, index = folder / name, (folder / name).with_suffix(".idx")
    if not tar.is_file():
        raise ShardError(f"{tar}: missing, though {folder / 'manifest.json'} names it; pack the split again")
    if tar.stat().st_size != size:
        raise ShardError(f"{tar}: {tar.stat().st_size} bytes, the manifest says {size}; pack the split again")
    if not index.is_file():
        raise ShardError(f"{index}: missing; make it with `wds2idx {tar.name} {index.name}`")


def _unfinished(folder: Path) -> str:
    partial = folder.with_name(folder.name + ".partial")
    if partial.is_dir():
        return f"; {partial} is a half-done job: run its pack command again, it carries on"
    return "; make it with: python -m sharding pack SRC OUT"


def _fingerprint(manifest: Manifest) -> str:
    table = [[entry.label, entry.wnid, entry.name] for entry in manifest.classes]
    content = json.dumps([[shard.sha256 for shard in manifest.shards], table], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _raw_pixels(npy: np.ndarray) -> np.ndarray:
    """The pixels of a `.npy` file in memory, without a copy. ValueError for another header than packing wrote."""
    start = len(_RAW_HEADER)
    if npy[:start].tobytes() != _RAW_HEADER:
        raise ValueError(f"its header is {npy[:start].tobytes()!r}")
    return npy[start:].reshape(_RAW_SHAPE)
