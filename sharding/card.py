"""OUT/README.md: what the packed splits are, for people, and for `datasets.load_dataset`, which reads its head."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from common.files import write_atomically
from sharding.manifest import Manifest
from sharding.record import SPLIT_WORDS

logger = logging.getLogger(__name__)

_MARK = "<!-- written by python -m sharding pack, anew with each split -->"


def write_card(out: Path) -> None:
    """Write `out/README.md` from the manifests of the splits in `out`; a README that somebody else wrote stays."""
    path = out / "README.md"
    if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
        logger.warning("%s: not written by packing, so it stays; datasets.load_dataset may not find the splits", path)
        return
    manifests = {split: out / split / "manifest.json" for split in SPLIT_WORDS}
    card = _card({split: Manifest.load(file) for split, file in manifests.items() if file.exists()})
    if not path.exists() or path.read_text(encoding="utf-8") != card:
        with write_atomically(path) as file:
            file.write(card.encode())


def _card(splits: dict[str, Manifest]) -> str:
    classes = next(iter(splits.values())).classes
    files = [f"  - split: {split}\n    path: {split}/*.tar" for split in splits]
    head = ["---", "configs:", "- config_name: default", "  data_files:", *files, "---", _MARK, "# Packed pictures", ""]
    sources = ", ".join(sorted({f"`{manifest.source}`" for manifest in splits.values()}))
    about = (
        "Pictures of 256×256 in tar shards (WebDataset). A sample has `jpg` (or `npy`, uint8 [256, 256, 3]) and `cls` "
        f"(label). Packed from {sources}."
    )
    counts = []
    for split, manifest in splits.items():
        size, skipped = sum(row.bytes for row in manifest.shards), sum(row["entries"] for row in manifest.skipped)
        counts.append((split, manifest.samples, len(manifest.shards), size, len(manifest.rejects), skipped))
    options = [(split, f"`{json.dumps(manifest.options, ensure_ascii=False)}`") for split, manifest in splits.items()]
    shards = [
        (f"{split}/{row.name}", row.samples, row.bytes, row.sha256)
        for split, manifest in splits.items() for row in manifest.shards
    ]  # fmt: skip
    return "\n".join([
        *head, about, "",
        *_table("split samples shards bytes rejects skipped", counts),
        "## Options", "", *_table("split options", options),
        "## Classes", "", *_table("label wnid name", [(row.label, row.wnid, row.name) for row in classes]),
        "## Checksums", "", *_table("shard samples bytes SHA-256", shards),
    ])  # fmt: skip


def _table(columns: str, rows: Iterable[Iterable[object]]) -> list[str]:
    names = columns.split()
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *cells)] + [""]
