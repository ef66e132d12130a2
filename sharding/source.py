"""Every ImageNet layout → the records of a split, in a fixed order; pictures that replace others by name."""

import os
from pathlib import Path

from sharding.archives import find_archives, open_archives, tells_split
from sharding.classes import member_of_kit
from sharding.errors import ShardError
from sharding.folders import kaggle_root, open_folder, open_kaggle, split_folder
from sharding.parquet import find_parquet, open_parquet
from sharding.record import SPLIT_WORDS, Layout, Source, Split, is_picture


def open_source(source: Path, layout: Layout, split: Split) -> Source:
    """Find out how `source` is laid out, unless `layout` tells, and open one split of it.

    Raises ShardError if the split is not there in that layout.
    """
    found = find_layout(source, split) if layout == "auto" else layout
    if found == "kaggle":
        return open_kaggle(source, split)
    if found in ("parquet", "archives"):
        paths = find_parquet(source, split) if found == "parquet" else find_archives(source, split)
        if not paths:
            raise ShardError(f"{source}: no {found} of the {split} split found there")
        return open_parquet(paths) if found == "parquet" else open_archives(paths, split)
    if not source.is_dir():
        raise ShardError(f"{source}: neither a folder nor an archive that is read here (.tar, .tar.gz, .parquet)")
    return open_folder(_folder_to_read(source, found, split), found)


def _folder_to_read(source: Path, layout: Layout, split: Split) -> Path:
    """The split's own folder, else `source`, unless its folders are other splits, which must not pass for classes."""
    own = split_folder(source, split)
    others = [folder.name for folder in (split_folder(source, other) for other in SPLIT_WORDS) if folder]
    if own is None and others and layout != "flat":  # a flat layout looks into no folder
        raise ShardError(
            f"{source}: has no folder {split}; it has {', '.join(others)}, which are splits and no classes; "
            "choose one with --split, or give the folder that holds the classes"
        )
    return own or source


def find_layout(source: Path, split: Split) -> Layout:
    """The layout of `source`, as far as its names tell; "auto" leaves the choice between class folders and flat."""
    if kaggle_root(source):
        return "kaggle"
    if find_parquet(source, split):
        return "parquet"
    return "archives" if find_archives(source, split) else "auto"


def has_split(source: Path, layout: Layout, split: Split) -> bool:
    """Whether `source` holds this split apart from others: by a folder's name or a file's."""
    kaggle = kaggle_root(source)
    if kaggle and layout in ("auto", "kaggle"):
        return split_folder(kaggle / "Data" / "CLS-LOC", split) is not None
    if layout in ("auto", "parquet") and find_parquet(source, split):
        return True
    if layout in ("auto", "archives") and any(tells_split(path, split) for path in find_archives(source, split)):
        return True
    return layout in ("auto", "folders", "flat") and split_folder(source, split) is not None


def replacements(folder: Path) -> dict[str, str]:
    """The pictures in a folder of patches: file name → path. Raises ShardError for a name that comes twice, or none."""
    found: dict[str, str] = {}
    for place, _, names in os.walk(folder):
        for name in filter(is_picture, names):
            path = f"{place}/{name}"
            if found.setdefault(name, path) != path:
                raise ShardError(f"two patch images have one name: {found[name]} and {path}; remove one of them")
    if not found:
        raise ShardError(f"{folder}: no pictures to replace others with (--patch-images)")
    return found


def find_devkit(source: Path) -> Path | None:
    """The development kit that lies with the official archives: its own archive, or its meta.mat."""
    candidates = [*sorted(source.glob("*devkit*.tar*")), source / "meta.mat", source / "data" / "meta.mat"]
    return next((path for path in candidates if path.is_file()), None)


def ground_truth_text(given: Path | None, source: Path, devkit: Path | None, split: Split) -> tuple[str, str] | None:
    """Name and text of the ground truth: of the file given, or that lies with the archives or in the kit's archive."""
    endings = [f"{word}_ground_truth.txt" for word in SPLIT_WORDS[split]]
    found = [path for ending in endings for path in sorted(source.glob(f"*{ending}"))]
    if given or found:
        path = given or found[0]
        return str(path), path.read_text(encoding="ascii", errors="replace")
    for ending in endings if devkit and devkit.suffix != ".mat" else []:
        content = member_of_kit(devkit, ending) if devkit else None
        if content is not None:
            return f"{devkit} (…{ending})", content.decode("ascii", errors="replace")
    return None
