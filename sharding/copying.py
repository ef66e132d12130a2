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
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from common.files import write_atomically
from sharding.executor import progress_bar
from sharding.manifest import MANIFEST, Manifest, ShardInfo
from sharding.record import SPLIT_WORDS, ShardError

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 4 << 20
_GO_ON = "run the same command again, it goes on from there"


def copy(source: str, target: str, workers: int = 8) -> int:
    """Copy the packed splits in `source` (or the split that it is) to `target`; returns 0.

    Raises ShardError, one line, for what is no split, for a full disk, a lost connection or a source that is not what
    its manifest says; what has arrived is not fetched again.
    """
    here, there = _open_folder(source), _open_folder(target)
    if _address(here) == _address(there):
        raise ShardError(f"{source}: copied to itself; give another DST")
    with _explained(source):
        alone = here.exists(MANIFEST)
        splits = [""] if alone else [f"/{split}" for split in SPLIT_WORDS if here.exists(f"{split}/{MANIFEST}")]
        has_card = not alone and here.exists("README.md")  # for Hugging Face
    if not splits:
        raise ShardError(f"{source}: no packed split there (no manifest.json, train/, val/ or test/)")
    for split in splits:
        source_split, target_split = (DirFileSystem(place.path + split, place.fs) for place in (here, there))
        copy_split(source_split, target_split, workers)
    if has_card:
        _copy_file(here, there, "README.md", "")
    return 0


def copy_split(source: DirFileSystem, target: DirFileSystem, workers: int) -> None:
    """Copy one split. Raises ShardError as `copy` does."""
    with _explained(_address(source, MANIFEST)):
        content = source.cat_file(MANIFEST)
    manifest = Manifest.parse(content, _address(source, MANIFEST))
    files = _files_of(manifest)
    with _explained(_address(target)), ThreadPoolExecutor(workers) as threads:
        target.makedirs("", exist_ok=True)
        sound = list(threads.map(lambda file: _matches(target, file), files))
        missing = [file for file, there in zip(files, sound, strict=True) if not there]
        if missing and target.exists(MANIFEST):  # until the last file is right, this is no split
            target.rm_file(MANIFEST)
    needed, where = sum(file.bytes for file in missing), _address(target)
    if _is_local(target) and needed > (free := shutil.disk_usage(target.path).free):
        sizes = f"{tqdm.format_sizeof(free, 'B')} free, {tqdm.format_sizeof(needed, 'B')} still to come"
        raise ShardError(f"{where}: {sizes}; make room")
    done = manifest.samples - sum(file.samples for file in missing)
    with progress_bar(manifest.samples, f"copy {where}", done) as bar, ThreadPoolExecutor(workers) as threads:
        futures = {threads.submit(_copy_file, source, target, file.name, file.sha256): file for file in missing}
        try:
            for future in as_completed(futures):
                future.result()
                bar.update(futures[future].samples)
        except BaseException:  # no other begins
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    with _explained(_address(source, MANIFEST)):
        if source.cat_file(MANIFEST) != content:
            raise ShardError(f"{_address(source)}: its manifest changed while it was copied; {_GO_ON}")
    with _explained(_address(target, MANIFEST)), _writer(target, MANIFEST) as file:
        file.write(content)
    unchecked = sum(not file.sha256 for file in files)
    old = f"; {unchecked} files have no checksum in this manifest of version 0.1: python -m sharding verify DST"
    logger.info(
        f"{where}: {len(manifest.shards)} shards, {manifest.samples} samples; {len(missing)} files fetched, "
        f"{len(files) - len(missing)} were there{old if unchecked else ''}"
    )


def _files_of(manifest: Manifest) -> list[ShardInfo]:
    """The files of a split but for its manifest, large ones first; no checksum where version 0.1 has told none."""
    others = {f"{Path(shard.name).stem}.idx": "" for shard in manifest.shards}
    if manifest.split == "train":
        others["statistics.npz"] = ""
    return manifest.shards + [ShardInfo(name, 0, 0, sha256) for name, sha256 in (others | manifest.checksums).items()]


def _open_folder(address: str) -> DirFileSystem:
    """The folder at `address`. Raises ShardError for one that nothing here can open."""
    try:
        files, folder = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ShardError(f"{address}: {error}; pip install 'alexnet-2012[remote]' has s3://") from None
    return DirFileSystem(folder, files)


def _address(folder: DirFileSystem, name: str = "") -> str:
    address: str = folder.fs.unstrip_protocol(f"{folder.path.rstrip('/')}/{name}".rstrip("/"))
    return address.removeprefix("file://").removeprefix("local://")


def _is_local(folder: DirFileSystem) -> bool:
    return isinstance(folder.fs, LocalFileSystem)


def _chunks(folder: DirFileSystem, name: str, digest: Any) -> Iterator[bytes]:
    """The bytes of one file; `digest` takes them in."""
    with _explained(_address(folder, name)), folder.open(name, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            yield chunk


def _matches(folder: DirFileSystem, file: ShardInfo) -> bool:
    """Whether the file is there with its checksum."""
    if not file.sha256 or not folder.exists(file.name):
        return False
    digest = hashlib.sha256()
    for _ in _chunks(folder, file.name, digest):
        pass
    return digest.hexdigest() == file.sha256


def _copy_file(source: DirFileSystem, target: DirFileSystem, name: str, sha256: str) -> None:
    """Copy one file; it does not appear (or, in a store, does not stay) if its checksum is not the manifest's."""
    digest = hashlib.sha256()
    try:
        with _explained(_address(target, name)), _writer(target, name) as writer:
            for chunk in _chunks(source, name, digest):
                writer.write(chunk)
            if sha256 not in ("", digest.hexdigest()):
                raise ShardError(
                    f"{_address(source, name)}: arrived with another SHA-256 than its manifest says; the source has "
                    f"changed or is damaged (python -m sharding verify tells), or the way is; {_GO_ON}"
                )
    except ShardError:
        if not _is_local(target):
            with contextlib.suppress(OSError):  # whatever stays is no split without a manifest, and is compared again
                target.rm_file(name)
        raise


def _writer(folder: DirFileSystem, name: str) -> Any:
    return write_atomically(Path(folder.path, name)) if _is_local(folder) else folder.open(name, "wb")


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Whatever the library of a store raises (each has its own errors) becomes a ShardError of one line."""
    try:
        yield
    except ShardError:
        raise
    except Exception as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)  # without a path again
        reason = (told or type(error).__name__).splitlines()[0]
        raise ShardError(f"{what}: {reason}; mend that, and {_GO_ON}") from error
