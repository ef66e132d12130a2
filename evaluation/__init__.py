"""Evaluation of a trained run; here only the options that it shares with the report, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.command_line import option


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Which checkpoint of a run, which shards, which device."""

    checkpoint: str = option("last, best (chosen on val, so it flatters val), or a checkpoint file", "last")
    shards: Path | None = option("folder of the packed splits; none: where the run was trained from", None)
    device: Literal["auto", "cpu", "cuda"] = option("auto: the GPU if there is one", "auto")
