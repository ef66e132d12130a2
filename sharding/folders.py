"""Pictures on disk: class folders, one flat folder, Kaggle's tree."""

import csv
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from sharding.classes import sorted_table
from sharding.errors import ShardError
from sharding.manifest import ClassInfo
from sharding.record import SPLIT_WORDS, Record, Source, Split, is_picture, wnid_of_flat_name

logger = logging.getLogger(__name__)


def split_folder(source: Path, split: Split) -> Path | None:
    """The folder of one split inside `source`, if there is one."""
    return next((source / word for word in SPLIT_WORDS[split] if (source / word).is_dir()), None)


def open_folder(folder: Path, layout: str) -> Source:
    """Class folders (`<class>/<image>`), or one flat folder of pictures. Raises ShardError if it may be both."""
    entries = _entries(folder)
    flat = [entry for entry in entries if entry.is_file() and is_picture(entry.name)]
    classes = [entry for entry in entries if entry.is_dir()]
    if layout == "auto" and flat and classes:
        raise ShardError(
            f"{folder}: holds both pictures ({flat[0].name}, …) and folders ({classes[0].name}, …); "
            "say which counts with --layout folders or --layout flat"
        )
    if layout == "flat" or (layout == "auto" and flat):
        records = (Record(entry.name, wnid_of_flat_name(entry.name, entry.path), entry.path) for entry in flat)
        return Source(layout="flat", records=records, expected="<wnid>_<id>.JPEG files")
    return Source(layout="folders", records=_folder_records(classes), expected="<class>/<image> folders")


def kaggle_root(source: Path) -> Path | None:
    """The folder that holds `Data/CLS-LOC` of Kaggle's layout, if `source` is of it."""
    return next((root for root in (source, source / "ILSVRC") if (root / "Data" / "CLS-LOC").is_dir()), None)


def open_kaggle(source: Path, split: Split) -> Source:
    """Kaggle's ILSVRC/Data/CLS-LOC/<split>, with LOC_val_solution.csv and LOC_synset_mapping.txt beside ILSVRC."""
    root = kaggle_root(source)
    folder = root and split_folder(root / "Data" / "CLS-LOC", split)
    if root is None or folder is None:
        raise ShardError(f"{source}: no ILSVRC/Data/CLS-LOC/{split} there, as Kaggle's layout has")
    words = {line[:9]: line[10:] for line in _lines(root, "LOC_synset_mapping.txt")}

    def table() -> list[ClassInfo] | None:
        return sorted_table(words, words) if words else None

    if split == "train":
        records = _folder_records([entry for entry in _entries(folder) if entry.is_dir()])
    elif split == "val":
        records = _solution_records(folder, _read_solution(root))
    else:
        raise ShardError(f"{folder}: Kaggle's test pictures have no labels; only train and val can be packed")
    return Source(layout="kaggle", records=records, expected=f"pictures in {folder}", table=table)


def _lines(root: Path, name: str) -> list[str]:
    """The lines of a file beside or above Kaggle's ILSVRC folder; none if it is not there."""
    path = next((place / name for place in (root, root.parent) if (place / name).is_file()), None)
    return path.read_text(encoding="utf-8").splitlines() if path else []


def _read_solution(root: Path) -> dict[str, str]:
    rows = list(csv.DictReader(_lines(root, "LOC_val_solution.csv")))
    if not rows:
        raise ShardError(f"{root}: no LOC_val_solution.csv here or above, which tells the validation labels")
    try:
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError) as error:
        raise ShardError(f"{root}: LOC_val_solution.csv lacks a column or a value: {error!r}") from None


def _solution_records(folder: Path, solution: dict[str, str]) -> Iterator[Record]:
    for entry in _entries(folder):
        if not is_picture(entry.name):
            continue
        wnid = solution.get(Path(entry.name).stem)
        if wnid is None:
            raise ShardError(f"{entry.path}: not in LOC_val_solution.csv, so its class is unknown")
        yield Record(entry.name, wnid, entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: os.fsencode(entry.name))


def _folder_records(classes: list[os.DirEntry[str]]) -> Iterator[Record]:
    for entry in classes:
        passed = []
        for relative, path in _files_below(Path(entry.path), entry.name):
            if is_picture(relative):
                yield Record(relative, entry.name, path)
            else:
                passed.append(relative)
        if passed:
            logger.warning("passed over what has no picture's suffix: %s and %d more", passed[0], len(passed) - 1)


def _files_below(folder: Path, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in _entries(folder):
        name = f"{prefix}/{entry.name}"
        if entry.is_file():
            yield name, entry.path
        elif entry.is_dir(follow_symlinks=False):
            yield from _files_below(Path(entry.path), name)
