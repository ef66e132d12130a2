"""Stopping: a signal to any rank in, one step at which all ranks stop out.

Signals only set a flag. The flag travels in a sum over all ranks that is made once a step anyway (`Control`), so
all ranks see it at the same step, save there, and leave with exit status 0.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Self

import torch
import torch.distributed as dist

from model.mesh import Mesh

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """While entered, SIGTERM, SIGUSR1 and a first Ctrl-C only set `received` to the signal's name."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:  # a second Ctrl-C ends at once
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class LostRankError(RuntimeError):
    """Another rank does not answer any more."""


# What gloo and NCCL say, in plain RuntimeErrors, when a peer has gone or stays silent.
_LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "timeout", "socket")


@contextlib.contextmanager
def noticing_lost_ranks() -> Iterator[None]:
    """Turn the errors of a collective whose peer has gone into LostRankError; let all others pass."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip()
        if isinstance(error, dist.DistError) or any(word in text.lower() for word in _LOST):
            cause = text.splitlines()[0] if text else type(error).__name__
            raise LostRankError(f"another process is gone or does not answer: {cause}") from error
        raise


class Control:
    """Sums and messages over all ranks, on CPU tensors: every rank gets the same answer at the same place."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all ranks, in float64."""
        if self.mesh.control_group is None:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.mesh.control_group)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum([float(flag)])[0] > 0

    def tell(self, message: str | None, *, saving: bool = False) -> str | None:
        """Rank 0's message on every rank; while it is `saving`, they wait longer for it."""
        group = self.mesh.saving_group if saving else self.mesh.control_group
        if group is None:
            return message
        box = [message]
        dist.broadcast_object_list(box, src=0, group=group)
        return box[0]
