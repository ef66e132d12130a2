"""Pictures in Hugging Face's parquet files (`image: {bytes, path}`, `label`), through pyarrow (extra "parquet")."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharding.errors import ShardError
from sharding.manifest import ClassInfo
from sharding.record import SPLIT_WORDS, Record, Source, Split

_WNID = re.compile(r"(?:^|_)(n\d{8})(?:_|\.|$)")
_ROWS = 64


def find_parquet(source: Path, split: Split) -> list[Path]:
    """One split's parquet files: `source` itself, or `<split>-….parquet` in it, its `data` or its split's folder."""
    if source.is_file():
        return [source] if source.suffix == ".parquet" else []
    for folder in (source, source / "data", *(source / word for word in SPLIT_WORDS[split])):
        files = sorted(folder.glob("*.parquet"))
        named = [path for path in files if path.name.startswith(SPLIT_WORDS[split])]
        if named or (files and folder.name in SPLIT_WORDS[split]):
            return named or files
    return []


def open_parquet(paths: list[Path]) -> Source:
    """The pictures of these files, in row order. Raises ShardError for a file of another kind, or without pyarrow."""
    try:
        import pyarrow.parquet as reader
    except ImportError:
        raise ShardError(f"{paths[0]}: reading parquet needs pyarrow; install it with: pip install pyarrow") from None
    classes: dict[int, str] = {}
    names: list[str] = []

    def records() -> Iterator[Record]:
        for path in paths:
            try:
                with reader.ParquetFile(path) as file:
                    names[:] = names or _class_names(file.schema_arrow.metadata or {})
                    yield from _rows(file, path, classes, names)
            except (OSError, ValueError, KeyError, TypeError) as error:
                if isinstance(error, ShardError):
                    raise
                raise ShardError(f"{path}: not rows of image {{bytes, path}} and label ({error})") from None

    def table() -> list[ClassInfo]:
        count = max([len(names), *(label + 1 for label in classes)])
        words = [names[label] if label < len(names) else "" for label in range(count)]
        wnids = [classes.get(label) or token for label, token in enumerate(_tokens(words))]
        return [ClassInfo(label, wnids[label], words[label] or wnids[label]) for label in range(count)]

    expected = "rows in the parquet files"
    return Source(layout="parquet", records=records(), expected=expected, streamed=tuple(paths), table=table)


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """The names of a ClassLabel feature, as Hugging Face's metadata has them; none if it does not."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return list(features.get("label", {}).get("names", []))


def _tokens(names: list[str]) -> list[str]:
    """What stands for each class where no wnid is known: its name, with the label if two have it (ImageNet: crane)."""
    counts = Counter(names)
    return [
        str(label) if not name else name if counts[name] == 1 else f"{label}-{name}" for label, name in enumerate(names)
    ]


def _rows(file: Any, path: Path, classes: dict[int, str], names: list[str]) -> Iterator[Record]:
    number, tokens = 0, _tokens(names)
    for batch in file.iter_batches(batch_size=_ROWS, columns=["image", "label"]):
        for image, label in zip(batch.column("image").to_pylist(), batch.column("label").to_pylist()):
            place = f"{path}: row {number}"
            if label is None or label < 0:
                raise ShardError(f"{place}: label {label}; a split without labels cannot be packed")
            if not image or image["bytes"] is None:
                raise ShardError(f"{place}: holds no picture's bytes (image.bytes is null)")
            name = image.get("path") or f"{path.stem}-{number:08d}.jpg"
            wnid = _WNID.search(name.rpartition("/")[2])
            token = wnid[1] if wnid else tokens[label] if label < len(tokens) else str(label)
            if classes.setdefault(label, token) != token:
                raise ShardError(f"{place}: {name} is of class {token}, but label {label} was {classes[label]} before")
            yield Record(name.lstrip("/"), token, f"{path}", data=image["bytes"])
            number += 1
