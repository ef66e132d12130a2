"""Ranks for tests: real processes, as torchrun starts them, but forked from a server that has imported torch once."""

import fcntl
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

SECONDS = 120  # what waits longer than this for a process has found a bug
FAILED = 99  # exit status of a function that raised

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.fsdp", "torch.utils.tensorboard", "tests.training.ranks", "training.trainer"]
)


PORTS = range(21000, 32000)  # below those that the kernel gives away
_locks: list[IO[str]] = []  # of the ports that this process has been given, as long as it lives


def free_port() -> int:
    """A port that no other test of this machine asks for, whoever started it."""
    for port in PORTS:
        try:
            lock = (Path(tempfile.gettempdir()) / f"alexnet-test-port-{port}").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", port))
        except OSError:  # another test's, or another program's
            continue
        _locks.append(lock)
        return port
    raise AssertionError(f"none of the ports {PORTS} is free")


@dataclass
class Ranks:
    """Processes of one job, and the files that their output went to."""

    processes: list[Any]
    outputs: list[Path]

    def wait(self, seconds: float = SECONDS) -> list[int]:
        """Exit statuses (negative: the signal that ended it); a process that does not end is killed and fails."""
        for process in self.processes:
            process.join(seconds)
        late = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()
        if late:
            pytest.fail(f"ranks {late} did not end; output of rank {late[0]}:\n{self.text(late[0])}")
        return [process.exitcode for process in self.processes]

    def text(self, rank: int = 0) -> str:
        return self.outputs[rank].read_text(errors="replace")


def _child(environment: dict[str, str], output: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    status = FAILED
    try:
        import torch

        torch.set_num_threads(1)
        status = function(*arguments) or 0
    finally:
        if status == FAILED:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start(folder: Path, world: int, function: Callable[..., Any], *arguments: Any, **environment: str) -> Ranks:
    """Start `function(*arguments)` in `world` processes; what it returns is the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    port, processes, outputs = free_port(), [], []
    for rank in range(world):
        variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        outputs.append(folder / f"output-{rank}.txt")
        variables = {name: str(value) for name, value in variables.items()} | environment
        processes.append(_server.Process(target=_child, args=(variables, outputs[-1], function, arguments)))
        processes[-1].start()
    return Ranks(processes, outputs)


def train(arguments: list[str]) -> int:
    """What a rank of a training does."""
    from train import main

    return main(arguments)


def train_and_signal(arguments: list[str], rank: int, step: int, number: signal.Signals) -> int:
    """A training in which `rank` sends itself a signal when it has queued `step` (counted from 1)."""
    from training.progress import Progress, Step

    add = Progress.add

    def add_and_signal(self: Progress, queued: Step) -> None:
        add(self, queued)
        if queued.step == step and os.environ["RANK"] == str(rank):
            os.kill(os.getpid(), number)

    Progress.add = add_and_signal  # type: ignore[method-assign]
    return train(arguments)


def train_in_float64(arguments: list[str]) -> int:
    """A training whose weights are float64, so that orders of sums hardly show."""
    import torch

    torch.set_default_dtype(torch.float64)
    return train(arguments)
