"""Every ImageNet layout → the records of a split, in a fixed order; pictures that replace others by name."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sharding.archives import find_archives, open_archives
from sharding.classes import member_of_kit, read_text
from sharding.folders import kaggle_root, open_folder, open_kaggle, refuse_packed, split_folder
from sharding.parquet import find_parquet, open_parquet
from sharding.record import SPLIT_WORDS, Layout, Record, ShardError, Source, Split, canonical, is_picture, split_of_name

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


def find_patches(folder: Path) -> dict[str, str]:
    """The pictures in a folder of patches: file name → path. Raises ShardError for a name that comes twice, or none."""

    def fail(error: OSError) -> None:
        raise error

    patches: dict[str, str] = {}
    for parent, _, names in os.walk(folder, onerror=fail):
        for name in filter(is_picture, names):
            path, base = f"{parent}/{name}", canonical(name)
            if patches.setdefault(base, path) != path:
                raise ShardError(f"two patch images have one name: {patches[base]} and {path}; remove one of them")
    if not patches:
        raise ShardError(f"{folder}: no pictures to replace others with (--patch-images)")
    return patches


def patched(records: Iterator[Record], patches: dict[str, str], used: dict[str, str]) -> Iterator[Record]:
    """The records, with a patch in place of each picture of the same file name; `used` tells which took place.

    Raises ShardError if one would replace two pictures.
    """
    for record in records:
        base = record.name.rpartition("/")[2]
        if base in patches:
            other = used.setdefault(base, record.name)
            if other != record.name:
                raise ShardError(f"{patches[base]} would replace both {other} and {record.name}")
            record = record._replace(file=patches[base], offset=0, size=-1, data=None, link="")
        yield record


def find_devkit(source: Path) -> Path | None:
    """The development kit that lies with the official archives: its own archive, or its meta.mat."""
    candidates = [*sorted(source.glob("*devkit*.tar*")), source / "meta.mat", source / "data" / "meta.mat"]
    return next((path for path in candidates if path.is_file()), None)


def ground_truth_text(given: Path | None, source: Path, devkit: Path | None, split: Split) -> tuple[str, str] | None:
    """Name and text of the ground truth: of the file given, or that lies with the archives or in the kit's archive."""
    endings = [f"{word}_ground_truth.txt" for word in SPLIT_WORDS[split]]
    beside = [path for ending in endings for path in sorted(source.glob(f"*{ending}"))]
    if given or beside:
        path = given or beside[0]
        return str(path), read_text(path.read_bytes(), str(path))
    for ending in endings if devkit and devkit.suffix != ".mat" else []:
        content = member_of_kit(devkit, ending) if devkit else None
        if content is not None:
            origin = f"{devkit} (…{ending})"
            return origin, read_text(content, origin)
    return None
