"""Pictures in Hugging Face's parquet files (`image: {bytes, path}`, `label`), through pyarrow (extra "parquet")."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharding.record import ClassInfo, Record, ShardError, Source, printable

_WNID = re.compile(r"(?:^|_)(n\d{8})(?:_|\.|$)")
_ROWS = 64
_COLUMNS = {"image.bytes": "(large_)?binary", "image.path": "(large_)?string|null|absent", "label": "u?int(8|16|32|64)"}
"""The types of the columns that are read, as pyarrow prints them."""

_MAX_CLASSES = 100_000
"""More labels than any data set of pictures has: ImageNet-21k has 21,841."""


def open_parquet(paths: list[Path]) -> Source:
    """The pictures of these files, in row order. Raises ShardError for a file of another kind, or without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet as reader
    except ImportError:
        raise ShardError(f"{paths[0]}: reading parquet needs pyarrow; install it with: pip install pyarrow") from None
    classes: dict[int, str] = {}
    names: list[str] = []

    def records() -> Iterator[Record]:
        for path in paths:
            try:
                with reader.ParquetFile(path, page_checksum_verification=True) as file:
                    _check_columns(file.schema_arrow, path)
                    class_names = _class_names(file.schema_arrow.metadata or {}, path)
                    if names and class_names and class_names != names:
                        raise ShardError(f"{path}: its class names differ from those of {paths[0]}")
                    names[:] = names or class_names
                    yield from _rows(file, path, classes, names)
            except (OSError, pyarrow.ArrowException) as error:
                raise ShardError(f"{path}: cannot be read as parquet ({error}); fetch it again") from None

    def table() -> list[ClassInfo]:
        count = max([len(names), *(label + 1 for label in classes)])
        words = [names[label] if label < len(names) else "" for label in range(count)]
        wnids = [classes.get(label) or token for label, token in enumerate(_tokens(words))]
        return [ClassInfo(label, wnids[label], words[label] or wnids[label]) for label in range(count)]

    files, expected = tuple(paths), "rows in the parquet files"
    return Source(layout="parquet", records=records(), expected=expected, files=files, streamed=files, table=table)


def _check_columns(schema: Any, path: Path) -> None:
    """Raise ShardError unless there is image {bytes: binary, path: string} and an integer label."""
    kinds = {column.name: str(column.type) for column in schema}
    if kinds.get("image", "").startswith("struct"):
        kinds |= {f"image.{part.name}": str(part.type) for part in schema.field("image").type}
    for name, expected in _COLUMNS.items():
        kind = kinds.get(name, "absent")
        if not re.fullmatch(expected, kind):
            what = f"column {name} is {kind[:60]}, expected {expected}"
            raise ShardError(f"{path}: not rows of image {{bytes, path}} and label: {what}")


def _class_names(metadata: dict[bytes, bytes], path: Path) -> list[str]:
    """The names of a ClassLabel feature, as Hugging Face's metadata has them; none if it does not."""
    try:
        names = json.loads(metadata.get(b"huggingface", b"{}"))
        for key in ("info", "features", "label", "names"):
            names = names.get(key) or {}
        if not all(isinstance(name, str) for name in names):
            raise ValueError("a name that is no text")
    except (ValueError, AttributeError, TypeError) as error:
        raise ShardError(f"{path}: its metadata under `huggingface` is damaged ({error}); write it anew") from None
    return list(names)


def _tokens(names: list[str]) -> list[str]:
    """What stands for each class where no wnid is known: its name, with the label if two have it (ImageNet: crane)."""
    counts = Counter(names)
    return [
        str(label) if not name else name if counts[name] == 1 else f"{label}-{name}" for label, name in enumerate(names)
    ]


def _rows(file: Any, path: Path, classes: dict[int, str], names: list[str]) -> Iterator[Record]:
    """Records of one file. A row without a picture's bytes has none (it will be rejected); one without a label ends."""
    number, tokens = 0, _tokens(names)
    known = len(names) or _MAX_CLASSES
    for batch in file.iter_batches(batch_size=_ROWS, columns=["image", "label"]):
        for image, label in zip(batch.column("image").to_pylist(), batch.column("label").to_pylist()):
            row = f"{path}: row {number}"
            if label is None or label < 0:
                raise ShardError(f"{row}: label {label}; a split without labels cannot be packed")
            if label >= known:
                raise ShardError(f"{row}: label {label}, but labels go from 0 to {known - 1}")
            name = (image or {}).get("path") or f"{path.stem}-{number:08d}.jpg"
            wnid = _WNID.search(name.rpartition("/")[2])
            token = printable(wnid[1] if wnid else tokens[label] if label < len(tokens) else str(label))
            if classes.setdefault(label, token) != token:
                raise ShardError(f"{row}: {name} is of class {token}, but label {label} was {classes[label]} before")
            yield Record(name.lstrip("/"), token, str(path), data=(image or {}).get("bytes") or b"")
            number += 1
