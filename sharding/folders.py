"""Pictures on disk: class folders, one flat folder, Kaggle's tree."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from sharding.classes import read_text, sorted_table
from sharding.record import Record, ShardError, Skipped, Source, Split, canonical, printable, wnid_of_flat_name

logger = logging.getLogger(__name__)

_LINKED = "a link to a folder"
_MAPPING, _SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"


def open_folder(folder: Path, layout: str) -> Source:
    """Class folders (`<class>/<image>`), or one flat folder of pictures. Raises ShardError if it may be both."""
    skipped, flat, classes = Skipped(), [], []
    records: Iterator[Record]
    for entry in _entries(folder):
        kind = _kind(entry)
        if kind == "folder" or (kind == _LINKED and not folder.resolve().is_relative_to(Path(entry.path).resolve())):
            classes.append(entry)
        elif kind != "file":
            skipped.add(kind, canonical(entry.name))
        elif not skipped.add_unless_picture(canonical(entry.name)):
            flat.append(entry)
    if layout == "auto" and flat and classes:
        what = f"holds both pictures ({flat[0].name}, …) and folders ({classes[0].name}, …)"
        raise ShardError(f"{folder}: {what}; say which counts with --layout folders or --layout flat")
    if layout == "flat" or (layout == "auto" and flat):
        layout, others, reason, expected = "flat", classes, "a folder beside flat pictures", "<wnid>_<id>.JPEG files"
        names = (canonical(entry.name) for entry in flat)
        records = (Record(name, wnid_of_flat_name(name, at.path), at.path) for name, at in zip(names, flat))
    else:
        layout, others, reason, expected = "folders", flat, "outside the class folders", "<class>/<image> folders"
        records = _class_records(classes, skipped)
    for entry in others:
        skipped.add(reason, canonical(entry.name))
    return Source(layout=layout, records=records, expected=expected, skipped=skipped)


def _class_records(classes: "list[os.DirEntry[str]]", skipped: Skipped) -> Iterator[Record]:
    folders: dict[str, str] = {}
    for entry in classes:
        name, pictures = canonical(entry.name), 0
        wnid = printable(name)
        if folders.setdefault(wnid, name) != name:
            raise ShardError(f"{folders[wnid]!a} and {name!a} both make class {wnid}; rename one of these folders")
        for picture, path in pictures_in(entry.path, f"{name}/", skipped):
            pictures += 1
            yield Record(picture, wnid, path)
        if not pictures:
            skipped.add("a class folder without a picture", name)


def pictures_in(folder: str, prefix: str, skipped: Skipped) -> Iterator[tuple[str, str]]:
    """Name and path of the pictures in a folder and in the folders below it."""
    for entry in _entries(Path(folder)):
        name, kind = prefix + canonical(entry.name), _kind(entry)
        if kind == "folder":
            yield from pictures_in(entry.path, f"{name}/", skipped)
        elif kind != "file":
            skipped.add(kind, name)
        elif not skipped.add_unless_picture(name):
            yield name, entry.path


def _kind(entry: "os.DirEntry[str]") -> str:
    """`file` (a link to one is one), `folder`, or why the entry is neither, in words. Links to folders may go round."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return _LINKED if entry.is_symlink() else "folder"
    except OSError:  # a link to itself
        return "a link in a circle"
    return "a link to nothing" if entry.is_symlink() else "no regular file"


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    refuse_packed(folder)
    with os.scandir(folder) as scan:
        return sorted(scan, key=lambda entry: os.fsencode(entry.name))


def refuse_packed(folder: Path) -> None:
    """Raise ShardError if `folder` is a packed split: its pictures were made smaller once, which is enough."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return
    if isinstance(manifest, dict) and {"format", "split", "shards"} <= set(manifest):
        raise ShardError(f"{folder}: is a packed split, not a source; give the folder of the original pictures")


def open_kaggle(folder: Path, split: Split) -> Source:
    """Kaggle's Data/CLS-LOC/<split>, which is `folder`; LOC_*.csv|txt lie in the folder that holds Data, or above."""
    if split == "test":
        raise ShardError(f"{folder}: Kaggle's test pictures have no labels; only train and val can be packed")
    root = folder.parents[2]
    tables = {name: root / name if (root / name).is_file() else root.parent / name for name in (_MAPPING, _SOLUTION)}
    words = _read_table(tables[_MAPPING], " ") if tables[_MAPPING].is_file() else {}
    if split == "train":
        opened = open_folder(folder, "folders")
        records, skipped = opened.records, opened.skipped
    else:
        skipped, path = Skipped(), tables[_SOLUTION]
        if not path.is_file():
            raise ShardError(f"{path.parent}: no {_SOLUTION} here or above, which tells the validation labels")
        solution = _read_table(path, ",", "ImageId,PredictionString")
        records = _solution_records(folder, solution, path, skipped)
    return Source(
        layout="kaggle",
        records=records,
        expected=f"pictures in {folder}",
        skipped=skipped,
        files=tuple(path for path in tables.values() if path.is_file()),
        table=lambda: sorted_table(words, words) if words else None,
    )


def _read_table(path: Path, separator: str, header: str = "") -> dict[str, str]:
    """First word → the rest of each line that is not blank. Raises ShardError for a line without, or a word twice."""
    lines = [line.strip() for line in read_text(path.read_bytes(), str(path)).splitlines()]
    if header and lines[:1] != [header]:
        raise ShardError(f"{path}: line 1 is not {header}; fetch the file again")
    rows: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line or line == header:
            continue
        word, _, words = line.partition(separator)
        if not words.strip() or word in rows:
            what = "comes twice" if word in rows else f"is not <word>{separator}<words>"
            raise ShardError(f"{path}: line {number}: {line[:40]!r} {what}; fetch the file again")
        rows[word] = words.strip()
    return rows


def _solution_records(folder: Path, solution: dict[str, str], path: Path, skipped: Skipped) -> Iterator[Record]:
    pictures = 0
    for name, file in pictures_in(str(folder), "", skipped):
        answer = solution.get(Path(name).stem)
        if answer is None:
            raise ShardError(f"{file}: not in {path}, so its class is unknown")
        pictures += 1
        yield Record(name, answer.split()[0], file)
    if pictures < len(solution):
        logger.warning("%s: names %d pictures that are not in %s", path, len(solution) - pictures, folder)
