"""Loaders that are measured side by side, each in a process of its own: ours, the limit, and the field's.

All do the same work on the same JPEG bytes (`work.py`), so that only how they do it differs: read a 256×256
picture, decode it, crop 224×224, mirror, subtract the mean image's crop, add a color offset, deliver float32
batches of 128. Each peer is written as somebody who knows that library well would write it.

    loader.py ──▶ processes.Worker ──pipe──▶ measured.py ──▶ torch_pillow, ffcv, …: Peer(job, table).epoch()
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A loader to measure: the `module` of this package that has it, its class, and its options."""

    name: str
    module: str
    loader: str = "Peer"
    options: dict[str, object] = field(default_factory=dict)
    reference: str = ""
    compared: bool = True
    """Whether its first batch is held against ours, pixel by pixel."""


LIMIT = Entry(
    name="limit: libjpeg-turbo (simplejpeg), one thread",
    module="ours",
    loader="DecodingLimit",
    reference="limit",
    compared=False,
)
OURS = Entry(name="ours, float32", module="ours", reference="ours", compared=False)
MODES = (
    OURS,
    Entry(name="ours, float32, window of 2 shards", module="ours", options={"window": 2}, compared=False),
    Entry(name="ours, float32, whole graph in DALI", module="ours", options={"fused": False}, compared=False),
    Entry(name="ours, uint8", module="ours", options={"output": "uint8"}, compared=False),
)
RAW = Entry(name="ours, float32, raw shards", module="ours", compared=False)
GPU = Entry(name="ours, float32, GPU", module="ours", options={"device": "cuda"}, compared=False)
PEERS = (
    Entry(name="torch DataLoader + Pillow, as the seed", module="torch_pillow"),
    Entry(name="torch DataLoader + simplejpeg", module="torch_fast"),
    Entry(name="webdataset + simplejpeg", module="webdataset"),
    Entry(name="FFCV", module="ffcv"),
    Entry(name="SPDL (FFmpeg)", module="spdl", options={"decoder": "ffmpeg"}),
    Entry(name="SPDL + simplejpeg", module="spdl", options={"decoder": "simplejpeg"}),
    Entry(name="DALI fn.readers.webdataset, as its tutorials", module="dali_tutorial"),
)
