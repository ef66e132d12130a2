"""How far a job is: a bar on a terminal, elsewhere one plain line every half minute, and one when it ends."""

import sys
import time
from typing import Any

from tqdm import tqdm

_SECONDS = 30.0


class PlainBar:
    """A bar in lines of their own, for files and pipes: counts, rate and time left. It stands in for tqdm's."""

    def __init__(self, total: int, what: str, done: int, quiet: bool) -> None:
        self.total, self.initial, self.n = total, done, done
        self._what, self._quiet, self._begun = what, quiet, time.monotonic()
        self._said = self._begun

    def __enter__(self) -> "PlainBar":
        return self

    def __exit__(self, *error: object) -> None:
        if not self._quiet:
            self._write()

    def update(self, images: int) -> None:
        """Count `images` more."""
        self.n += images
        if not self._quiet and time.monotonic() - self._said >= _SECONDS:
            self._write()

    def _write(self) -> None:
        self._said = time.monotonic()
        rate = (self.n - self.initial) / max(self._said - self._begun, 1e-9)
        left = f", {(self.total - self.n) / rate:,.0f} s left" if rate and self.n < self.total else ""
        sys.stderr.write(f"{self._what}: {self.n:,} of {self.total:,} images, {rate:,.0f} image/s{left}\n")
        sys.stderr.flush()


Bar = PlainBar | tqdm


def progress_bar(total: int, what: str, done: int = 0, quiet: bool = False) -> Any:
    """A bar over `total` images of which `done` are done, named `what`, for a `with` statement; none if `quiet`."""
    if sys.stderr.isatty() and not quiet:
        return tqdm(total=total, initial=done, unit="image", desc=what, mininterval=0.5)
    return PlainBar(total, what, done, quiet)
