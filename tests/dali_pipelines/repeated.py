"""Splits of many shards that take no room: links to the files of a small one."""

import json
from pathlib import Path


def repeated(folder: Path, out: Path, copies: int) -> Path:
    """A split of `copies` times the samples: its shards are links to the same few files."""
    out.mkdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    shards = manifest["shards"]
    manifest["shards"] = []
    for _copy in range(copies):
        for shard in shards:
            name = f"train-{len(manifest['shards']):06d}.tar"
            for suffix in (".tar", ".idx"):
                (out / name).with_suffix(suffix).symlink_to((folder / shard["name"]).with_suffix(suffix))
            manifest["shards"].append({**shard, "name": name})
    manifest["samples"] *= copies
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out
