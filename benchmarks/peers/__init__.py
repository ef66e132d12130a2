"""Loaders that are measured side by side, each in a process of its own: ours, the limit, and the field's.

All do the same work on the same JPEG bytes (`work.py`), so that only how they do it differs: read a 256×256
picture, decode it, crop 224×224, mirror, subtract the mean image's crop, add a color offset, deliver float32
batches of 128. Each peer is written as somebody who knows that library well would write it.

    loader.py ──▶ processes.Worker ──pipe──▶ measured.py ──▶ torch_loader, ffcv, …: Peer(job, table).epoch()
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """A loader to measure: its class, `module:name` in this package, and its options.

    compared: whether its first batch is held against ours, pixel by pixel. raw: it reads pixels in place of JPEG.
    """

    name: str
    loader: str
    options: dict[str, object] = field(default_factory=dict)
    reference: Literal["limit", "ours", ""] = ""
    compared: bool = False
    raw: bool = False


LIMIT = Entry("limit: libjpeg-turbo (simplejpeg), one thread", "ours:DecodingLimit", reference="limit")
OURS = Entry("ours, float32", "ours:Ours", reference="ours")
MODES = (
    OURS,
    Entry("ours, float32, window of 2 shards", "ours:Ours", {"window": 2}),
    Entry("ours, float32, whole graph in DALI", "ours:Ours", {"fused": False}),
    Entry("ours, uint8", "ours:Ours", {"output": "uint8"}),
)
RAW = Entry("ours, float32, raw shards", "ours:Ours", raw=True)
FFCV_RAW = Entry("FFCV, raw mode", "ffcv:Ffcv", raw=True)
GPU = Entry("ours, float32, GPU", "ours:Ours", {"device": "cuda"})
PEERS = (
    Entry("torch DataLoader + Pillow, as the seed", "torch_loader:AsTheSeed", compared=True),
    Entry("torch DataLoader + simplejpeg", "torch_loader:Simplejpeg", compared=True),
    Entry("webdataset + simplejpeg", "webdataset:Webdataset", compared=True),
    Entry("FFCV", "ffcv:Ffcv", compared=True),
    Entry("SPDL (FFmpeg)", "spdl:Spdl", {"decoder": "ffmpeg"}, compared=True),
    Entry("SPDL + simplejpeg", "spdl:Spdl", {"decoder": "simplejpeg"}, compared=True),
    Entry("DALI fn.readers.webdataset, as its tutorials", "dali_tutorial:DaliTutorial", compared=True),
)
