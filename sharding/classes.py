"""Class tables: which label each wnid has. Train and val must agree, so the table goes into the manifest."""

from pathlib import Path

from sharding.errors import ShardError
from sharding.manifest import ClassInfo, Manifest


def sorted_table(wnids: dict[str, str], names: dict[str, str]) -> list[ClassInfo]:
    """Labels by sorted wnid, as ILSVRC-2012 trainers number them; `names` gives their words, where known."""
    return [ClassInfo(label, wnid, names.get(wnid, wnid)) for label, wnid in enumerate(sorted(wnids))]


def table_of_manifest(path: Path) -> list[ClassInfo]:
    """The class table of a packed split; `path` is its manifest.json or its folder."""
    return Manifest.load(path / "manifest.json" if path.is_dir() else path).classes


def check_known(wnids: dict[str, str], table: list[ClassInfo], origin: str) -> None:
    """Raise ShardError if a source's wnid is not in the class table."""
    known = {entry.wnid for entry in table}
    for wnid, example in wnids.items():
        if wnid not in known:
            raise ShardError(f"{example}: class {wnid} is not in the class table of {origin} ({len(table)} classes)")
