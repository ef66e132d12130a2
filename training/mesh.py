"""The mesh of ranks: torchrun's environment in; this rank's coordinates on the data and model axes, and groups, out.

    rank            0      1      2      3        model axis 2: ranks 2d and 2d+1 are pair d, one tower each
    (data, model)   (0,0)  (0,1)  (1,0)  (1,1)    a data group joins the ranks of one tower: {0, 2} and {1, 3}

Groups are made by hand rather than by `DeviceMesh`, whose own groups wait 30 minutes for a dead rank. Four kinds
carry one kind of traffic each, so that no two of them can be mixed up: the data and model groups (gradients,
activations; NCCL on GPUs), the exchange group of a pair (pictures), and the control group of all ranks, which is
gloo everywhere: it works on CPU tensors and notices at once that a process has gone. The saving group is like it, but
waits longer: while rank 0 writes a checkpoint to a slow disk, the others are not to give up.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from common.errors import UserError, first_line

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

# On GPUs ranks compile kernels and choose algorithms in their first steps, not all in the same time.
TIMEOUT_SECONDS = {"cpu": 60.0, "cuda": 300.0}
SAVING_TIMEOUT_SECONDS = 1800.0
WATCHDOG_MARGIN_SECONDS = 60.0  # NCCL's watchdog kills the process without advice: it comes after our own clock
NAMING_SECONDS = 5.0  # so long may a rank take to notice that another is lost
# What gloo and NCCL say, in plain RuntimeErrors, when a peer has gone or stays silent.
LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "timeout", "socket")
# The store of `make_mesh`'s process group, until `close_mesh`: of the whole process, as the group is.
open_stores: list[dist.Store] = []


class LostRankError(UserError):
    """Another rank does not answer any more."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """This rank's coordinates, and what ranks say to each other beside gradients, activations and images.

    A group is None where its axis has one rank. `sum`, `any` and `on_main_rank` are called by all ranks, in the same
    order, and give all the same answer.
    """

    rank: int = 0
    world: int = 1
    data_rank: int = 0
    data_world: int = 1
    model_rank: int = 0
    model_world: int = 1
    data_group: dist.ProcessGroup | None = None
    model_group: dist.ProcessGroup | None = None
    exchange_group: dist.ProcessGroup | None = None
    control_group: dist.ProcessGroup | None = None
    saving_group: dist.ProcessGroup | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    timeout_seconds: float = TIMEOUT_SECONDS["cpu"]

    @property
    def is_main(self) -> bool:
        """Whether this is the main rank: the one that logs and writes."""
        return self.rank == 0

    def describe(self) -> str:
        """One line: how many processes, how they are laid out, on what."""
        what, over = f"CPU, {torch.get_num_threads()} threads each", "gloo"
        if self.device.type == "cuda":
            what, over = torch.cuda.get_device_name(self.device), "NCCL"
        if self.world == 1:
            return f"1 process on {what}"
        return f"{self.world} processes on {what}, {over}: data axis {self.data_world}, model axis {self.model_world}"

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all ranks, in float64."""
        if self.control_group is None:
            return values
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self.control_group)
        return sums.tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum([float(flag)])[0] > 0

    def on_main_rank(self, work: Callable[[], Answer]) -> Answer:
        """What `work` (it may save) returns on rank 0, or the UserError or OSError that it raises there, for all."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome = [None, work()]
            except (UserError, OSError) as failure:
                outcome = [failure, None]
        if self.saving_group is not None:
            dist.broadcast_object_list(outcome, src=0, group=self.saving_group)
        error, answer = outcome
        if error is not None:
            raise error
        return answer


def coordinates(rank: int, world: int, model_world: int) -> tuple[int, int]:
    """(data rank, model rank) of `rank`. Raises UserError if `world` cannot be divided so."""
    if not 0 <= rank < world:
        raise UserError(f"rank {rank} is not among {world} ranks")
    if world % model_world:
        raise UserError(
            f"--model-parallel {model_world} needs a number of processes that {model_world} divides, got {world}"
        )
    return divmod(rank, model_world)


def make_mesh(model_parallel: str | int, device_type: str, timeout_seconds: float | None = None) -> Mesh:
    """The mesh of the processes that torchrun started, or of this one alone.

    `model_parallel`: 1, 2, or "auto" (2 if the number of processes is even). A rank that waits longer than
    `timeout_seconds` (None: `TIMEOUT_SECONDS`) for another gives up with an error, half an hour while a checkpoint is
    written. Raises UserError.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    model_world = (1 if world % 2 else 2) if model_parallel == "auto" else int(model_parallel)
    data_rank, model_rank = coordinates(rank, world, model_world)
    device = _device(device_type)
    if world == 1:
        return Mesh(device=device)
    timeout_seconds = timeout_seconds or TIMEOUT_SECONDS[device.type]
    timeout, cuda = timedelta(seconds=timeout_seconds), device.type == "cuda"
    nccl_timeout = timeout + timedelta(seconds=WATCHDOG_MARGIN_SECONDS if cuda else 0.0)
    # A backward pass uses two communicators: the pair's exchange and DDP's sums. Their kernels run on streams of their
    # own, and two ranks whose GPUs began them in different orders would wait for each other. All ranks run the same
    # program, so NCCL may keep the order in which the host asked. Off unless this is set: release notes of 2.26.2 (in
    # AMD's copy); the 2.29.7 that PyTorch 2.13 is built with knows the variable.
    os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
    if not dist.is_initialized():
        store = _store(rank, world, timeout)
        backend, own_gpu = ("nccl", device) if cuda else ("gloo", None)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world, timeout=nccl_timeout, device_id=own_gpu
        )
        open_stores.append(store)
    ranks = torch.arange(world).view(-1, model_world)  # a row for each pair, a column for each tower

    def own_group(members: torch.Tensor) -> dist.ProcessGroup | None:
        """This rank's of the groups that the rows make, if they have several ranks; all ranks make all groups."""
        several = members.shape[1] > 1
        return dist.new_subgroups_by_enumeration(members.tolist(), timeout=nccl_timeout)[0] if several else None

    return Mesh(
        rank=rank,
        world=world,
        data_rank=data_rank,
        data_world=world // model_world,
        model_rank=model_rank,
        model_world=model_world,
        data_group=own_group(ranks.T),
        model_group=own_group(ranks),
        exchange_group=own_group(ranks),
        control_group=dist.new_group(backend="gloo", timeout=timeout),
        saving_group=dist.new_group(backend="gloo", timeout=max(timeout, timedelta(seconds=SAVING_TIMEOUT_SECONDS))),
        device=device,
        timeout_seconds=timeout_seconds,
    )


def _store(rank: int, world: int, timeout: timedelta) -> dist.Store:
    """Where ranks find each other. torchrun's store outlives a restart: no start may read addresses of an earlier one.

    On one node the restarts are counted alike, so each has keys of its own. On several nodes they may not be: there
    torchrun must be started with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, and makes a new store each time.
    """
    store, _, _ = next(dist.rendezvous("env://", rank, world, timeout=timeout))
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        return store
    return dist.PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def _device(device_type: str) -> torch.device:
    if device_type != "cuda":
        return torch.device(device_type)
    if not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no GPU here; use --device cpu")
    local, visible = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= visible:
        raise UserError(f"process {local} of this machine has no GPU of its own: {visible} visible")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def close_mesh() -> None:
    """Leave the process group, if there is one."""
    open_stores.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def noticing_lost_ranks(advice: str = "") -> Iterator[None]:
    """Turn the errors of a collective whose peer has gone into LostRankError with `advice`; let all others pass."""
    try:
        yield
    except (RuntimeError, LostRankError) as error:
        if isinstance(error, dist.DistError | LostRankError) or any(word in str(error).lower() for word in LOST):
            raise LostRankError(f"{_lost_ranks()} gone or does not answer: {first_line(error)}{advice}") from error
        raise


def _lost_ranks() -> str:
    """`process 3 is`, as the main rank finds out: each that has noticed says in the store that it lives."""
    missing: list[str] = []
    for store in open_stores:
        try:
            store.set(f"alive {dist.get_rank()}", "")
            end = time.monotonic() + NAMING_SECONDS
            for rank in range(dist.get_world_size() if dist.get_rank() == 0 else 0):
                try:
                    store.wait([f"alive {rank}"], timedelta(seconds=max(0.1, end - time.monotonic())))
                except dist.DistStoreError:
                    missing.append(str(rank))
        except RuntimeError as error:  # the store's host has gone
            logger.warning("cannot ask which process is lost: %s", first_line(error))
    return f"process {', '.join(missing)} is" if missing else "another process is"
