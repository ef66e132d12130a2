"""Files that appear whole or not at all."""

from pathlib import Path


def publish(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path` and rename it; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
