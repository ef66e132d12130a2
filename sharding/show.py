"""A packed split in words and in one picture."""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sharding.errors import ShardError
from sharding.shard_set import ShardSet

_CELL = 160


def show(folder: Path, png: Path | None = None, samples: int = 40) -> int:
    """Print a summary of the split and write a contact sheet of `samples` pictures with class names; returns 0."""
    if not (folder / "manifest.json").exists() and (folder / "train" / "manifest.json").exists():
        folder = folder / "train"
    with ShardSet.open(folder) as shards:
        if not len(shards):
            raise ShardError(f"{folder}: no samples")
        path = png or folder.with_name(f"{folder.name}.png")
        contact_sheet(shards, samples).save(path)
        sys.stdout.write(
            f"{folder}: {len(shards)} samples of {len(shards.classes)} classes in {len(shards.shard_sizes)} shards\n"
            f"contact sheet: {path}\n"
        )
    return 0


def contact_sheet(shards: ShardSet, samples: int) -> Image.Image:
    """A sheet of `samples` pictures, evenly spread over the split, each with its class's name."""
    ids = np.unique(np.linspace(0, len(shards) - 1, min(samples, len(shards))).astype(np.int64))
    columns = min(8, len(ids))
    sheet = Image.new("RGB", (columns * _CELL, -(-len(ids) // columns) * (_CELL + 16)), "white")
    draw = ImageDraw.Draw(sheet)
    names = {entry.label: entry.name for entry in shards.classes}
    for place, (view, label) in enumerate(zip(shards.images(ids), shards.labels(ids))):
        picture = Image.open(io.BytesIO(view.tobytes())) if view.ndim == 1 else Image.fromarray(view)
        corner = (place % columns * _CELL, place // columns * (_CELL + 16))
        sheet.paste(picture.resize((_CELL - 4, _CELL - 4)), corner)
        draw.text((corner[0] + 2, corner[1] + _CELL - 4), names[int(label)][:25], fill="black")
    return sheet
