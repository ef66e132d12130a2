"""Source pictures → shards, and shards → pictures. `python -m sharding pack|verify|show|copy`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharding.options import PackOptions as PackOptions
    from sharding.packing import pack as pack
    from sharding.pictures import prepare_image as prepare_image
    from sharding.record import ClassInfo as ClassInfo
    from sharding.record import RejectedImage as RejectedImage
    from sharding.record import ShardError as ShardError
    from sharding.shard_set import ShardSet as ShardSet
    from sharding.statistics import Statistics as Statistics

_HOMES = {
    "ClassInfo": "record", "PackOptions": "options", "RejectedImage": "record", "ShardError": "record",
    "ShardSet": "shard_set", "Statistics": "statistics", "pack": "packing", "prepare_image": "pictures",
}  # fmt: skip
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a wrong command line need not wait for NumPy and Numba."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"sharding.{_HOMES[name]}"), name)
