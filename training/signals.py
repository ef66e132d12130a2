"""Signals: one to any rank sets a flag, which travels to all ranks with the reduction of the next step.

So all ranks see it at the same step, save there, and leave with exit status 0.
"""

import signal
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """While entered, SIGTERM, SIGUSR1 and a first Ctrl-C only set `received` to the signal's name."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self.receive)
        return self

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """The handler: keep the signal's name; a second Ctrl-C ends the process at once."""
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
