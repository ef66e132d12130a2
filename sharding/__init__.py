"""Source pictures → shards, and shards → pictures. `python -m sharding pack|verify|show`."""

from sharding.errors import RejectedImage, ShardError
from sharding.manifest import ClassInfo
from sharding.options import PackOptions
from sharding.pack import pack
from sharding.resize import prepare_image
from sharding.shard_set import ShardSet
from sharding.statistics import Statistics

__all__ = [
    "ClassInfo",
    "PackOptions",
    "RejectedImage",
    "ShardError",
    "ShardSet",
    "Statistics",
    "pack",
    "prepare_image",
]
