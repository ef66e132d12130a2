"""A packed split in words and in one picture: `python -m sharding show DIR [--png FILE] [--samples N]`."""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common import ceil_div
from sharding.shard_set import ShardSet

CELL = 160
"""Pixels from one picture of the contact sheet to the next; names stand below, 16 pixels high."""

_NAME = 16
_COLUMNS = 8


def show(folder: Path, png: Path | None = None, samples: int = 40) -> int:
    """Print a summary of each split in `folder`; write a contact sheet of `samples` pictures of the first. Returns 0.

    The sheet goes to `png`, or beside the split's folder. Raises ShardError if there is no split.
    """
    splits = [folder / split for split in ("train", "val", "test") if (folder / split / "manifest.json").exists()]
    if (folder / "manifest.json").exists() or not splits:
        splits = [folder]
    for split in splits:
        with ShardSet.open(split) as shards:
            sys.stdout.write(summary(shards))
    with ShardSet.open(splits[0]) as shards:
        path = png or splits[0].absolute().with_name(f"{splits[0].absolute().name}.png")
        contact_sheet(shards, samples).save(path)
        sys.stdout.write(f"contact sheet: {path}\n")
    return 0


def summary(shards: ShardSet) -> str:
    """What a split holds, in some lines."""
    manifest, count = shards.manifest, len(shards.shard_names)
    size = sum(shard.bytes for shard in manifest.shards)
    chosen = ", ".join(f"{name} {value}" for name, value in manifest.options.items() if not isinstance(value, dict))
    lines = [
        f"{shards.path}: {len(shards)} samples of {len(shards.classes)} classes in {count} shard{'s' * (count != 1)}, "
        f"{size / 1e6:.1f} MB, {len(manifest.rejects)} rejects",
        f"  {chosen}",
        f"  source {manifest.source}; fingerprint {shards.fingerprint[:16]}",
    ]
    if (shards.path / "statistics.npz").exists():
        mean = ", ".join(f"{value:.2f}" for value in shards.statistics.rgb_mean)
        spread = ", ".join(f"{value:.1f}" for value in shards.statistics.eigenvalues)
        lines.append(f"  rgb mean {mean}; eigenvalues of the rgb covariance {spread}")
    lines += [f"  rejected {reject['source']}: {reject['reason']}" for reject in manifest.rejects[:10]]
    return "\n".join(lines) + "\n"


def contact_sheet(shards: ShardSet, samples: int) -> Image.Image:
    """A sheet of `samples` pictures, evenly spread over the split, each above its class's name."""
    ids = np.unique(np.linspace(0, len(shards) - 1, min(samples, len(shards))).astype(np.int64))
    columns = min(_COLUMNS, len(ids))
    sheet = Image.new("RGB", (columns * CELL, ceil_div(len(ids), columns) * (CELL + _NAME)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    names = {entry.label: " ".join(entry.name.split())[:CELL] or entry.wnid for entry in shards.classes}  # on one line
    for position, (view, label) in enumerate(zip(shards.images(ids), shards.labels(ids))):
        picture = Image.open(io.BytesIO(view.tobytes())) if view.ndim == 1 else Image.fromarray(view)
        left, top = position % columns * CELL, position // columns * (CELL + _NAME)
        sheet.paste(picture.resize((CELL - 4, CELL - 4)), (left, top))
        name = names[int(label)]
        while draw.textlength(name, font) > CELL - 6:
            name = name[:-2].rstrip(" …,") + "…"
        draw.text((left + 2, top + CELL - 3), name, fill="black", font=font)
    return sheet
