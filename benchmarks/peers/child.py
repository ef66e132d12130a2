"""The processes of the loaders: `python -m benchmarks.peers.child DESCRIPTOR LOG`, started by `process.Nursery`.

This process loads torch once and forks a child for each connection that it is handed on the socket DESCRIPTOR.
A child opens one peer. Enters: commands, pickled. Leaves: measurements and pictures; what it prints goes to a log.
"""

import gc
import importlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import torch

from benchmarks.measure import Repeat, cpu_seconds, descendants, forget_peaks, peak_bytes
from benchmarks.peers.work import AugmentationTable, Batch, Job, Peer

COMPARED = 16  # pictures of the first batch
Pictures = dict[int, np.ndarray]


class Measured:
    """A peer, its plan, and the CPU time that was spent when its last epoch ended.

    CPU time is counted from the end of one repeat to the end of the next, so that what a loader prepares in
    between, while others have their turn, is on its own bill.
    """

    def __init__(self, peer: Peer, table: AugmentationTable, epochs: int) -> None:
        self._peer, self._plan, self._epochs = peer, table, epochs
        self._random = np.random.default_rng(0)
        self._cpu_seconds = cpu_seconds()

    def repeat(self) -> Repeat:
        """All epochs of one repeat, as fast as the peer delivers, with new crops and colors.

        The batches that a peer has ready before it is asked are taken first and not counted.
        """
        forget_peaks()
        batches = self._batches()
        ready = [len(next(batches).ids) for _ in range(self._peer.ahead)]
        start = asked = time.perf_counter()
        images, waits = 0, []
        for batch in batches:
            waits.append(time.perf_counter() - asked)
            images += len(batch.ids)
            asked = time.perf_counter()
        seconds = time.perf_counter() - start
        before, self._cpu_seconds = self._cpu_seconds, cpu_seconds()
        return Repeat(
            images=images,
            seconds=seconds,
            cpu_seconds=(self._cpu_seconds - before) * images / (images + sum(ready)),
            peak_bytes=peak_bytes(),
            waits_seconds=tuple(waits),
        )

    def _batches(self) -> Iterator[Batch]:
        for _ in range(self._epochs):
            self._plan.draw(self._random)
            yield from self._peer.epoch()

    def pictures(self, wanted: frozenset[int] | None) -> Pictures:
        """Pictures of one epoch as the plan has them, by id: those `wanted`, or some of the first batch.

        float32 [224, 224, 3] each.
        """
        found: Pictures = {}
        for batch in self._batches_to_compare():
            numbers = batch.ids.tolist()
            if wanted is None:
                wanted = frozenset(numbers[:COMPARED])
            for number, image in zip(numbers, batch.images):
                if number in wanted:
                    found[number] = image.permute(1, 2, 0).numpy().copy()
        self._cpu_seconds = cpu_seconds()
        return found

    def _batches_to_compare(self) -> Iterator[Batch]:
        compared = getattr(self._peer, "compared", None)
        return self._peer.epoch() if compared is None else iter([compared])


def open_peer(job: Job, rows: np.ndarray, covariance_root: np.ndarray) -> tuple[Measured, str]:
    """The job's peer, ready to be measured, and its note for the table."""
    table = AugmentationTable(len(job.shards()), covariance_root)
    table.rows[:] = rows[: len(table.rows)]
    peer = importlib.import_module(f"benchmarks.peers.{job.module}").Peer(job, table)
    return Measured(peer, table, job.epochs), peer.note


def serve(parent: Connection) -> None:
    """Opens the peer that `parent` asks for, then carries out its commands until it hangs up."""
    log, *job = parent.recv()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    try:
        measured, note = open_peer(*job)
    except ImportError as error:
        parent.send((f"cannot be imported ({error}); `make bench-peers` installs it", ""))
        return
    except (OSError, RuntimeError) as error:
        parent.send((str(error).strip() or type(error).__name__, ""))
        return
    parent.send(("", note))
    while True:
        try:
            command, arguments = parent.recv()
        except EOFError:
            return
        parent.send(getattr(measured, command)(*arguments))


def main(control: socket.socket) -> None:
    """Forks a child for each connection that arrives, until the other side hangs up."""
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            run_child(control, descriptors[0])
        os.close(descriptors[0])


def run_child(control: socket.socket, descriptor: int) -> None:
    """A child's whole life. Never returns: loaders' threads would keep the interpreter from ending."""
    status = 1
    try:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        serve(Connection(descriptor))
        status = 0
    finally:
        for pid in descendants():
            os.kill(pid, signal.SIGKILL)
        if status:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
