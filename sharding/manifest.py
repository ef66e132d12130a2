"""manifest.json: what a packed split is. It appears last, so a split that has one is complete. README.md: the same for
people, and for `datasets.load_dataset`, which reads its head."""

import functools
import hashlib
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from common.files import write_text
from sharding.record import SPLIT_WORDS, ClassInfo, Encoding, ShardError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
SUFFIX: dict[Encoding, str] = {"jpeg": "jpg", "raw": "npy"}
"""Of a picture's member in a tar."""

_TYPES = {str: "text", int: "a whole number", list: "a list", dict: "an object"}
_hints = functools.cache(get_type_hints)
_SHA256 = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"[^/\0]*[^/\0.][^/\0]*\.(tar|idx|npy|npz)")
_MARK = "<!-- written by python -m sharding pack, anew with each split -->"


@dataclass(frozen=True)
class ShardInfo:
    """One shard: file name, samples in it, size and checksum of the tar."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json; the fields as in the file. `checksums`: SHA-256 of the files that are no shards."""

    split: str
    encoding: Encoding
    samples: int
    classes: list[ClassInfo]
    options: dict[str, Any]
    shards: list[ShardInfo]
    rejects: list[dict[str, str]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    contents: dict[str, Any] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    source: str = ""
    format: int = FORMAT

    def save(self, path: Path) -> None:
        """Write the manifest; the same content gives the same bytes."""
        write_text(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path, draft: bool = False) -> "Manifest":
        """Read a manifest. Raises ShardError, which names file and field, for one that packing did not write.

        A `draft` may be of a split that is not packed yet.
        """
        try:
            return cls.parse(path.read_bytes(), str(path), draft)
        except FileNotFoundError:
            raise ShardError(f"{path}: no such file; pack this split first (python -m sharding pack)") from None
        except OSError as error:
            raise ShardError(f"{path}: cannot be read as a manifest ({error.strerror})") from None

    @classmethod
    def parse(cls, text: bytes, path: str, draft: bool = False) -> "Manifest":
        """The manifest whose file holds `text`; raises as `load` does, of `path`."""
        try:
            content = json.loads(text.decode())
            version = content["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"[:80]
            raise ShardError(f"{path}: cannot be read as a manifest ({why})") from None
        if version != FORMAT:
            raise ShardError(f"{path}: format {version}, this program reads {FORMAT}")
        try:
            manifest = _typed(cls, content, "")
            if not draft:
                manifest.check()
        except ValueError as error:
            raise ShardError(f"{path}: {error}; restore the file, or pack the split again") from None
        return manifest

    def check(self) -> None:
        """Raise ValueError that names the field in which this is no manifest of a packed split."""
        shards, labels = self.shards, [entry.label for entry in self.classes]
        names = [shard.name for shard in shards]
        _check("encoding", self.encoding, self.encoding in tuple(SUFFIX), f"one of {', '.join(SUFFIX)}")
        _check("shards", names[:3], names and len(set(names)) == len(names), "at least one, none twice")
        _check("classes", labels[:3], labels and len(set(labels)) == len(labels), "at least one, no label twice")
        _check("classes", min(labels), min(labels) >= 0, "labels from 0 on")
        for number, shard in enumerate(shards):
            own = f"shards[{number}]"
            is_tar = _NAME.fullmatch(shard.name) and shard.name.endswith(".tar")
            _check(f"{own}.name", shard.name, is_tar, "a file name that ends in .tar")
            _check(f"{own}.samples", shard.samples, shard.samples > 0, "1 or more")
            _check(f"{own}.bytes", shard.bytes, shard.bytes > 0, "1 or more")
            _check(f"{own}.sha256", shard.sha256, _SHA256.fullmatch(shard.sha256), "64 hexadecimal digits")
        total = sum(shard.samples for shard in shards)
        _check("samples", self.samples, self.samples == total, f"{total}, which its shards hold")
        for name, sha256 in self.checksums.items():
            known = _NAME.fullmatch(name) and not name.endswith(".tar")
            _check(f"checksums[{name!r}]", sha256, known and _SHA256.fullmatch(sha256), "a file name, 64 hex digits")


def _check(field_name: str, value: Any, sound: object, expected: str) -> None:
    if not sound:
        raise ValueError(f"{field_name} is {value!r:.80}, expected {expected}")


def _typed(hint: Any, content: Any, name: str) -> Any:
    """`content` of JSON, if it is of type `hint` (a class, dataclass, Literal, list, dict of them). Else ValueError."""
    kind: Any = get_origin(hint) or hint
    parts = get_args(hint)
    if kind is Any or kind is Literal:  # the values of a Literal have a check of their own
        return content
    expected: Any = dict if is_dataclass(hint) else kind
    sound = isinstance(content, expected) and not isinstance(content, bool)
    _check(name or "the file", content, sound, _TYPES[expected])
    if kind is list:
        return [_typed(parts[0], entry, f"{name}[{number}]") for number, entry in enumerate(content)]
    if kind is dict:
        return {key: _typed(parts[1], entry, f"{name}[{key!r}]") for key, entry in content.items()}
    if expected is kind:
        return content
    hints, prefix = _hints(kind), f"{name}." * bool(name)
    for key in content:
        _check(prefix + key, "there", key in hints, "no such field (a newer program's file?)")
    for item in fields(kind):
        optional = item.default is not MISSING or item.default_factory is not MISSING
        _check(prefix + item.name, "missing", optional or item.name in content, "a value")
    return kind(**{key: _typed(hints[key], value, prefix + key) for key, value in content.items()})


def file_sha256(path: Path) -> str:
    """The checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_card(out: Path) -> None:
    """Write `out/README.md` from the manifests of the splits in `out`; a README that somebody else wrote stays."""
    path = out / "README.md"
    if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
        logger.warning("%s: not written by packing, so it stays; datasets.load_dataset may not find the splits", path)
        return
    paths = {split: out / split / MANIFEST for split in SPLIT_WORDS}
    splits = {split: Manifest.load(file) for split, file in paths.items() if file.exists()}
    counts, options, shards = [], [], []
    for split, manifest in splits.items():
        size, skipped = sum(row.bytes for row in manifest.shards), sum(row["entries"] for row in manifest.skipped)
        counts.append((split, manifest.samples, len(manifest.shards), size, len(manifest.rejects), skipped))
        options.append((split, f"`{json.dumps(manifest.options, ensure_ascii=False)}`"))
        shards += [(f"{split}/{row.name}", row.samples, row.bytes, row.sha256) for row in manifest.shards]
    classes = [(row.label, row.wnid, row.name) for row in next(iter(splits.values())).classes]
    files = [f"  - split: {split}\n    path: {split}/*.tar" for split in splits]
    sources = ", ".join(sorted({f"`{manifest.source}`" for manifest in splits.values()}))
    about = (
        "Pictures of 256×256 in tar shards (WebDataset). A sample has `jpg` (or `npy`, uint8 [256, 256, 3]) and `cls`"
    )
    card = "\n".join([
        "---", "configs:", "- config_name: default", "  data_files:", *files, "---", _MARK, "# Packed pictures", "",
        f"{about} (label). Packed from {sources}.", "", *_table("split samples shards bytes rejects skipped", counts),
        "## Options", "", *_table("split options", options),
        "## Classes", "", *_table("label wnid name", classes),
        "## Checksums", "", *_table("shard samples bytes SHA-256", shards),
    ])  # fmt: skip
    if not path.exists() or path.read_text(encoding="utf-8") != card:
        write_text(path, card)


def _table(columns: str, rows: Iterable[Iterable[object]]) -> list[str]:
    names = columns.split()
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *cells)] + [""]
