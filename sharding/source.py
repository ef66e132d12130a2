"""How a source is laid out, and where in it a split lies → the records of that split, in a fixed order."""

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
    own = _split_folder(source, split)
    for folder in (source if source.is_dir() else source.parent, own):
        if folder:
            refuse_packed(folder)
    if layout == "auto":
        layout = _find_layout(source, split)
    if layout == "kaggle":
        root = _kaggle_root(source)
        folder = root and _split_folder(root / "Data" / "CLS-LOC", split)
        if root is None or folder is None:
            raise ShardError(f"{source}: no ILSVRC/Data/CLS-LOC/{split} there, as Kaggle's layout has")
        return open_kaggle(root, folder, split)
    if layout in _FILES:
        paths = _find_files(source, layout, split)
        if not paths:
            raise ShardError(f"{source}: no {layout} of the {split} split found there")
        return open_parquet(paths) if layout == "parquet" else archives.open_archives(paths, split)
    if not source.is_dir():
        raise ShardError(f"{source}: neither a folder nor an archive that is read here (.tar, .tar.gz, .parquet)")
    others = [path.name for path in (_split_folder(source, other) for other in SPLIT_WORDS) if path]
    if own is None and others and layout != "flat":  # a flat layout looks into no folder
        what = f"has no folder {split}; it has {', '.join(others)}, which are splits and no classes"
        raise ShardError(f"{source}: {what}; choose one with --split, or give the folder that holds the classes")
    return open_folder(own or source, layout)


def _find_layout(source: Path, split: Split) -> Layout:
    """The layout of `source`, as far as its names tell; "auto" leaves the choice between class folders and flat.

    Raises ShardError if the split seems to be there twice: a choice would lose one without a word.
    """
    if _kaggle_root(source):
        return "kaggle"
    firsts = {layout: paths[0] for layout in _FILES if (paths := _find_files(source, layout, split))}
    if not firsts:
        return "auto"
    layout, first = next(iter(firsts.items()))
    others = [*list(firsts.values())[1:], _split_folder(source, split) if first.parent == source else None]
    if first.parent == source and split_of_name(first.name) is None:  # it may be anything, beside class folders
        others += [path for path in sorted(source.iterdir()) if path.is_dir() or is_picture(path.name)]
    other = next(filter(None, others), None)
    if other:
        raise ShardError(f"{source}: {first.name} and {other.name} may both hold the {split} split; say --layout")
    return layout


def _find_files(source: Path, layout: Layout, split: Split) -> list[Path]:
    """One split's archives or parquet files: in its folder, in `source` (or its `data`) those named after the split.

    Files without any split's name are of the split whose name their folder has, elsewhere of the training split where
    none is named. A file that is given is of any split.
    """
    if source.is_file():
        return [source] if _FILES[layout].search(source.name) else []
    inside = [source / word for word in SPLIT_WORDS[split]]
    for folder in [*inside, source] if layout == "archives" else [source, source / "data", *inside]:
        files = sorted(path for path in folder.glob("*") if _FILES[layout].search(path.name))
        files = [path for path in files if layout == "parquet" or not _NO_PICTURES.search(path.name)]
        if files and layout == "archives" and folder in inside:  # their names are those of classes
            return files
        chosen = [path for path in files if split_of_name(path.name) == split]
        named = layout == "parquet" and folder.name in SPLIT_WORDS[split]
        if named or (split == "train" and not chosen):
            chosen = [path for path in files if path in chosen or split_of_name(path.name) is None]
        if chosen:
            return chosen
    return []


def _split_folder(source: Path, split: Split) -> Path | None:
    """The folder of one split inside `source`, if there is one."""
    return next((source / word for word in SPLIT_WORDS[split] if (source / word).is_dir()), None)


def _kaggle_root(source: Path) -> Path | None:
    """The folder that holds `Data/CLS-LOC` of Kaggle's layout, if `source` is of it."""
    return next((root for root in (source, source / "ILSVRC") if (root / "Data" / "CLS-LOC").is_dir()), None)


def has_split(source: Path, layout: Layout, split: Split) -> bool:
    """Whether the folder `source` holds this split apart from others: by a folder's name or a file's."""
    if source.is_file():
        return False
    kaggle = _kaggle_root(source)
    if kaggle and layout in ("auto", "kaggle"):
        return _split_folder(kaggle / "Data" / "CLS-LOC", split) is not None
    for kind in _FILES:
        paths = _find_files(source, kind, split) if layout in ("auto", kind) else []
        if any(split_of_name(path.name) == split or path.parent.name in SPLIT_WORDS[split] for path in paths):
            return True
    return layout in ("auto", "folders", "flat") and _split_folder(source, split) is not None
