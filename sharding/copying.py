"""Packed splits copied between folders and object stores: `python -m sharding copy SRC DST`.

SRC and DST are folders, or addresses that fsspec knows (`s3://bucket/shards`, `gs://…`, `hf://…`, `https://…`). Each
file is compared with the manifest's SHA-256 while it arrives, and the manifest, which makes the files a split, comes
last. What is there already is compared too: given again, the command fetches only what differs.
"""

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from common.files import write_atomically
from sharding.executor import progress_bar
from sharding.manifest import Manifest
from sharding.record import SPLIT_WORDS, ShardError

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 4 << 20
_GO_ON = "run the same command again, it goes on from there"


@dataclass(frozen=True)
class Place:
    """A folder on one of fsspec's file systems."""

    files: Any
    folder: str

    @classmethod
    def of(cls, address: str) -> "Place":
        """The place at `address`. Raises ShardError for one that nothing here can open."""
        try:
            return cls(*fsspec.core.url_to_fs(address))
        except (ImportError, ValueError) as error:
            raise ShardError(f"{address}: {error}; pip install 'alexnet-2012[remote]' has s3://") from None

    def __truediv__(self, name: str) -> "Place":
        return Place(self.files, f"{self.folder.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return str(self.files.unstrip_protocol(self.folder)).removeprefix("file://").removeprefix("local://")

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return isinstance(self.files, LocalFileSystem)

    def exists(self) -> bool:
        """Whether there is anything."""
        return bool(self.files.exists(self.folder))


class FileToCopy(NamedTuple):
    """One file of a split; `sha256` is None where the manifest (of version 0.1) does not tell it."""

    name: str
    sha256: str | None
    bytes: int = 0
    samples: int = 0


def copy(source: str, target: str, workers: int = 8) -> int:
    """Copy the packed splits in `source` (or the split that it is) to `target`; returns 0.

    Raises ShardError, one line, for what is no split, for a full disk, a lost connection or a source that is not what
    its manifest says; what has arrived is not fetched again.
    """
    here, there = Place.of(source), Place.of(target)
    if str(here) == str(there):
        raise ShardError(f"{source}: copied to itself; give another DST")
    with _explained(source):
        pairs = [(here / split, there / split) for split in SPLIT_WORDS if (here / split / "manifest.json").exists()]
        if (here / "manifest.json").exists():
            pairs = [(here, there)]
        card = here / "README.md"  # for Hugging Face
        has_card = pairs != [(here, there)] and card.exists()
    if not pairs:
        raise ShardError(f"{source}: no packed split there (no manifest.json, train/, val/ or test/)")
    for split, copied in pairs:
        copy_split(split, copied, workers)
    if has_card:
        _copy_file(card, there / "README.md", None)
    return 0


def copy_split(source: Place, target: Place, workers: int) -> None:
    """Copy one split. Raises ShardError as `copy` does."""
    with _explained(source / "manifest.json"):
        content = source.files.cat_file((source / "manifest.json").folder)
    manifest = Manifest.parse(content, str(source / "manifest.json"))
    listed = _files_of(manifest)
    with _explained(target):
        target.files.makedirs(target.folder, exist_ok=True)
        with ThreadPoolExecutor(workers) as threads:
            sound = list(threads.map(lambda file: _matches(target / file.name, file.sha256), listed))
    missing = [file for file, there in zip(listed, sound, strict=True) if not there]
    needed = sum(file.bytes for file in missing)
    if target.is_local and needed > (free := shutil.disk_usage(target.folder).free):
        raise ShardError(f"{target}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB still to come; make room")
    published = target / "manifest.json"
    with _explained(published):
        if missing and published.exists():  # until the last file is right, this is no split
            target.files.rm_file(published.folder)
    done = manifest.samples - sum(file.samples for file in missing)
    with progress_bar(manifest.samples, f"copy {target}", done) as bar, ThreadPoolExecutor(workers) as threads:
        futures = {
            threads.submit(_copy_file, source / file.name, target / file.name, file.sha256): file for file in missing
        }
        try:
            for future in as_completed(futures):
                future.result()
                bar.update(futures[future].samples)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    with _explained(source / "manifest.json"):
        if source.files.cat_file((source / "manifest.json").folder) != content:
            raise ShardError(f"{source}: its manifest changed while it was copied; {_GO_ON}")
    with _explained(published), _writer(published) as file:
        file.write(content)
    unchecked = sum(file.sha256 is None for file in listed)
    logger.info(
        f"{target}: {len(manifest.shards)} shards, {manifest.samples} samples; {len(missing)} files fetched, "
        f"{len(listed) - len(missing)} were there"
        + f"; {unchecked} files have no checksum in this manifest of version 0.1: python -m sharding verify DST"
        * (unchecked > 0)
    )


def _files_of(manifest: Manifest) -> list[FileToCopy]:
    """The files of a split but for its manifest, large ones first."""
    checksums: dict[str, str | None] = {f"{Path(shard.name).stem}.idx": None for shard in manifest.shards}
    if manifest.split == "train":
        checksums["statistics.npz"] = None
    shards = [FileToCopy(shard.name, shard.sha256, shard.bytes, shard.samples) for shard in manifest.shards]
    return shards + [FileToCopy(name, sha256) for name, sha256 in {**checksums, **manifest.checksums}.items()]


def _chunks(path: Place) -> Iterator[bytes]:
    with _explained(path), path.files.open(path.folder, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _matches(path: Place, sha256: str | None) -> bool:
    """Whether the file is there with this checksum."""
    if sha256 is None or not path.exists():
        return False
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest() == sha256


def _copy_file(source: Place, target: Place, sha256: str | None) -> None:
    """Copy one file; it does not appear (or, in a store, does not stay) if its checksum is not the manifest's."""
    digest = hashlib.sha256()
    try:
        with _explained(target), _writer(target) as writer:
            for chunk in _chunks(source):
                digest.update(chunk)
                writer.write(chunk)
            if sha256 not in (None, digest.hexdigest()):
                raise ShardError(
                    f"{source}: arrived with another SHA-256 than its manifest says; the source has changed or is "
                    f"damaged (python -m sharding verify tells), or the way is; {_GO_ON}"
                )
    except ShardError:
        if not target.is_local:
            with contextlib.suppress(OSError):  # whatever stays is no split without a manifest, and is compared again
                target.files.rm_file(target.folder)
        raise


def _writer(path: Place) -> Any:
    return write_atomically(Path(path.folder)) if path.is_local else path.files.open(path.folder, "wb")


@contextlib.contextmanager
def _explained(what: object) -> Iterator[None]:
    """Whatever the library of a store raises (each has its own errors) becomes a ShardError of one line."""
    try:
        yield
    except ShardError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ShardError(f"{what}: {reason}; mend that, and {_GO_ON}") from error
