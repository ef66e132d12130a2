"""Every ImageNet layout → the records of a split, in a fixed order; pictures that replace others by name."""

from collections.abc import Callable
from pathlib import Path

from sharding.archives import find_archives, open_archives
from sharding.folders import kaggle_root, open_folder, open_kaggle, refuse_packed, split_folder
from sharding.parquet import find_parquet, open_parquet
from sharding.record import SPLIT_WORDS, Layout, ShardError, Source, Split, is_picture, split_of_name

_FINDERS: dict[Layout, Callable[[Path, Split], list[Path]]] = {"parquet": find_parquet, "archives": find_archives}


def open_source(source: Path, layout: Layout, split: Split) -> Source:
    """Find out how `source` is laid out, unless `layout` tells, and open one split of it.

    Raises ShardError if the split is not there in that layout, or if there is more than one layout.
    """
    for folder in (source if source.is_dir() else source.parent, split_folder(source, split)):
        if folder:
            refuse_packed(folder)
    if layout == "auto":
        layout = _find_layout(source, split)
    if layout == "kaggle":
        return open_kaggle(source, split)
    if layout in _FINDERS:
        paths = _FINDERS[layout](source, split)
        if not paths:
            raise ShardError(f"{source}: no {layout} of the {split} split found there")
        return open_parquet(paths) if layout == "parquet" else open_archives(paths, split)
    if not source.is_dir():
        raise ShardError(f"{source}: neither a folder nor an archive that is read here (.tar, .tar.gz, .parquet)")
    return open_folder(_folder_to_read(source, layout, split), layout)


def _folder_to_read(source: Path, layout: Layout, split: Split) -> Path:
    """The split's own folder, else `source`, unless its folders are other splits, which must not pass for classes."""
    folder = split_folder(source, split)
    others = [path.name for path in (split_folder(source, other) for other in SPLIT_WORDS) if path]
    if folder is None and others and layout != "flat":  # a flat layout looks into no folder
        raise ShardError(
            f"{source}: has no folder {split}; it has {', '.join(others)}, which are splits and no classes; "
            "choose one with --split, or give the folder that holds the classes"
        )
    return folder or source


def _find_layout(source: Path, split: Split) -> Layout:
    """The layout of `source`, as far as its names tell; "auto" leaves the choice between class folders and flat.

    Raises ShardError if the split seems to be there twice: a choice would lose one without a word.
    """
    if kaggle_root(source):
        return "kaggle"
    firsts = {layout: paths[0] for layout, find in _FINDERS.items() if (paths := find(source, split))}
    if not firsts:
        return "auto"
    layout, first = next(iter(firsts.items()))
    others = [*list(firsts.values())[1:], split_folder(source, split) if first.parent == source else None]
    if first.parent == source and split_of_name(first.name) is None:  # it may be anything, beside class folders
        others += [path for path in sorted(source.iterdir()) if path.is_dir() or is_picture(path.name)]
    other = next(filter(None, others), None)
    if other:
        raise ShardError(f"{source}: {first.name} and {other.name} may both hold the {split} split; say --layout")
    return layout


def own_split(source: Path) -> Split:
    """The split that a source without parts is: the one that a file's name tells, else train."""
    return (source.is_file() and split_of_name(source.name)) or "train"


def has_split(source: Path, layout: Layout, split: Split) -> bool:
    """Whether the folder `source` holds this split apart from others: by a folder's name or a file's."""
    if source.is_file():
        return False
    kaggle = kaggle_root(source)
    if kaggle and layout in ("auto", "kaggle"):
        return split_folder(kaggle / "Data" / "CLS-LOC", split) is not None
    for name, find in _FINDERS.items():
        paths = find(source, split) if layout in ("auto", name) else []
        if any(split_of_name(path.name) == split or path.parent.name in SPLIT_WORDS[split] for path in paths):
            return True
    return layout in ("auto", "folders", "flat") and split_folder(source, split) is not None
