"""manifest.json: what a packed split is. It appears last, so a split that has one is complete."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.files import write_atomically
from sharding.errors import ShardError
from sharding.shard import Encoding

FORMAT = 1


@dataclass(frozen=True)
class ClassInfo:
    """One class: its `label` (0-based), WordNet id (or folder name) and name in words."""

    label: int
    wnid: str
    name: str


@dataclass(frozen=True)
class ShardInfo:
    """One shard: file name, samples in it, size and checksum of the tar."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json; the fields as in the file."""

    split: str
    encoding: Encoding
    samples: int
    classes: list[ClassInfo]
    options: dict[str, Any]
    shards: list[ShardInfo]
    rejects: list[dict[str, str]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    contents: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    format: int = FORMAT

    def save(self, path: Path) -> None:
        """Write the manifest; the same content gives the same bytes."""
        with write_atomically(path) as file:
            file.write(json.dumps(asdict(self), indent=1, ensure_ascii=False).encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read a manifest. Raises ShardError that names the file if it is missing or not one."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ShardError(f"{path}: format {found['format']}, this program reads {FORMAT}")
            found["classes"] = [ClassInfo(**entry) for entry in found["classes"]]
            found["shards"] = [ShardInfo(**entry) for entry in found["shards"]]
            return cls(**found)
        except FileNotFoundError:
            raise ShardError(f"{path}: no such file; pack this split first (python -m sharding pack)") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, ShardError):
                raise
            why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"[:80]
            raise ShardError(f"{path}: cannot be read as a manifest ({why})") from None
