"""How a source is laid out, and where in it a split lies → the records of that split, in a fixed order."""

import os
import re
from pathlib import Path

from sharding import archives
from sharding.folders import open_folder, open_kaggle, refuse_packed
from sharding.parquet import open_parquet
from sharding.record import SPLIT_WORDS, Layout, ShardError, Source, Split, is_picture, split_of_name

_FILES: dict[Layout, re.Pattern[str]] = {"parquet": re.compile(r"\.parquet$"), "archives": archives.SUFFIX}
_NO_PICTURES = re.compile(r"devkit|patch|bbox|annotation", re.IGNORECASE)
"""Archives that lie with the official ones and hold something else."""


def open_source(source: Path, layout: Layout, split: Split) -> Source:
    """Find out how `source` is laid out, unless `layout` tells, and open one split of it.

    Raises ShardError if the split is not there in that layout, or if there is more than one layout.
    """
    places = _places(source, split)
    for folder in (source if source.is_dir() else source.parent, *places["folders"]):
        refuse_packed(folder)
    if layout == "auto":
        layout = _find_layout(source, split, places)
    if layout in ("kaggle", *_FILES) and not places[layout]:
        what = f"Data/CLS-LOC/{split}" if layout == "kaggle" else f"{layout} of the {split} split"
        raise ShardError(f"{source}: no {what} found there")
    if layout == "kaggle":
        return open_kaggle(places[layout][0], split)
    if layout == "parquet":
        return open_parquet(places[layout])
    if layout == "archives":
        return archives.open_archives(places[layout], split)
    if not source.is_dir():
        raise ShardError(f"{source}: neither a folder nor an archive that is read here (.tar, .tar.gz, .parquet)")
    others = [folder.name for other in SPLIT_WORDS for folder in _split_folder(source, other)]
    if not places["folders"] and others and layout != "flat":  # a flat layout looks into no folder
        what = f"has no folder {split}; it has {', '.join(others)}, which are splits and no classes"
        raise ShardError(f"{source}: {what}; choose one with --split, or give the folder that holds the classes")
    return open_folder((places["folders"] or [source])[0], layout)


def has_split(source: Path, layout: Layout, split: Split) -> bool:
    """Whether the folder `source` holds this split apart from others: by a folder's name or a file's."""
    if layout == "auto" and _kaggle_root(source):
        layout = "kaggle"
    places = _places(source, split)
    kinds = list(places) if layout == "auto" else ["folders" if layout == "flat" else layout]
    paths = [path for kind in kinds for path in places[kind] if path != source]
    return any(split_of_name(path.name) == split or path.parent.name in SPLIT_WORDS[split] for path in paths)


def _places(source: Path, split: Split) -> dict[Layout, list[Path]]:
    """Where one split may lie in `source`, by layout: its files, or the one folder that has its name."""
    kaggle = _kaggle_root(source)
    return {
        "kaggle": _split_folder(kaggle / "Data" / "CLS-LOC", split) if kaggle else [],
        **{layout: _find_files(source, layout, split) for layout in _FILES},
        "folders": _split_folder(source, split),
    }


def _find_layout(source: Path, split: Split, places: dict[Layout, list[Path]]) -> Layout:
    """The layout of `source`, as far as its names tell; "auto" leaves the choice between class folders and flat.

    Raises ShardError if the split seems to be there twice: a choice would lose one without a word.
    """
    if _kaggle_root(source):
        return "kaggle"
    kinds = [layout for layout in _FILES if places[layout]]
    if not kinds:
        return "auto"
    first, *others = [places[kind][0] for kind in kinds]
    if first.parent == source:
        others += places["folders"]
    if split_of_name(first.name) is None:  # it may be anything, beside class folders
        others += [path for path in sorted(first.parent.iterdir()) if path.is_dir() or is_picture(path.name)]
    if others:
        raise ShardError(f"{source}: {first.name} and {others[0].name} may both hold the {split} split; say --layout")
    return kinds[0]


def _find_files(source: Path, layout: Layout, split: Split) -> list[Path]:
    """One split's archives or parquet files: in `source` (or its `data`) those named after the split, or in its folder.

    Files without any split's name are of the split whose name their folder has, elsewhere of the training split where
    none is named. A file that is given is of any split.
    """
    if source.is_file():
        return [source] if _FILES[layout].search(source.name) else []
    inside = [source / word for word in SPLIT_WORDS[split]]
    for folder in (*inside, source) if layout == "archives" else (source, source / "data", *inside):
        names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - a Path for each of a million takes longer
        names = [name for name in names if layout == "parquet" or not _NO_PICTURES.search(name)]
        files = sorted(folder / name for name in names if _FILES[layout].search(name))
        if files and layout == "archives" and folder in inside:  # their names are those of classes
            return files
        chosen = [path for path in files if split_of_name(path.name) == split]
        named = layout == "parquet" and folder.name in SPLIT_WORDS[split]
        if named or (split == "train" and not chosen):
            chosen = [path for path in files if path in chosen or split_of_name(path.name) is None]
        if chosen:
            return chosen
    return []


def _split_folder(source: Path, split: Split) -> list[Path]:
    """The folder of one split inside `source`, if there is one."""
    return [source / word for word in SPLIT_WORDS[split] if (source / word).is_dir()][:1]


def _kaggle_root(source: Path) -> Path | None:
    """The folder that holds `Data/CLS-LOC` of Kaggle's layout, if `source` is of it."""
    return next((root for root in (source, source / "ILSVRC") if (root / "Data" / "CLS-LOC").is_dir()), None)
