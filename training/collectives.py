"""What ranks say to each other beside gradients and activations: sums, rank 0's messages, and a pair's images.

All of them are called by all ranks of their group, in the same order. A rank that has gone raises LostRankError in the
others.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from common.errors import UserError
from training.mesh import Mesh, open_meshes

logger = logging.getLogger(__name__)
NAMING_SECONDS = 5.0  # so long may a rank take to notice that another is lost


class LostRankError(UserError):
    """Another rank does not answer any more."""


# What gloo and NCCL say, in plain RuntimeErrors, when a peer has gone or stays silent.
_LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "timeout", "socket")


@contextlib.contextmanager
def noticing_lost_ranks(advice: str = "") -> Iterator[None]:
    """Turn the errors of a collective whose peer has gone into LostRankError with `advice`; let all others pass."""
    try:
        yield
    except (RuntimeError, LostRankError) as error:
        text = str(error).strip()
        known = isinstance(error, dist.DistError | LostRankError)
        if known or any(word in text.lower() for word in _LOST):
            cause = text.splitlines()[0] if text else type(error).__name__
            raise LostRankError(f"{_lost_ranks()} gone or does not answer: {cause}{advice}") from error
        raise


def _lost_ranks() -> str:
    """`process 3 is`, as the main rank finds out: each that has noticed says in the store that it lives."""
    for mesh in open_meshes:
        missing: list[str] = []
        if mesh.store is None:
            continue
        try:
            mesh.store.set(f"alive {mesh.rank}", "")
            end = time.monotonic() + NAMING_SECONDS
            for rank in range(mesh.world if mesh.is_main else 0):
                with contextlib.suppress(dist.DistStoreError):
                    mesh.store.wait([f"alive {rank}"], timedelta(seconds=max(0.1, end - time.monotonic())))
                    continue
                missing.append(str(rank))
        except RuntimeError as error:  # the store's host has gone
            logger.warning("cannot ask which process is lost: %s", str(error).splitlines()[0])
        if missing:
            return f"process {', '.join(missing)} is"
    return "another process is"


class Control:
    """Sums and messages over all ranks, on CPU tensors: every rank gets the same answer."""

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

    def on_main_rank(
        self, work: Callable[[], str | None], error: type[UserError], *, saving: bool = False
    ) -> str | None:
        """What `work` returns on rank 0, on all ranks; while it is `saving`, the others wait longer for it.

        If it fails there with a UserError or OSError, all raise `error` with its text.
        """
        outcome: tuple[str | None, str | None] = (None, None)
        if self.mesh.is_main:
            try:
                outcome = (None, work())
            except (UserError, OSError) as failure:
                outcome = (str(failure), None)
        group = self.mesh.saving_group if saving else self.mesh.control_group
        if group is not None:
            box = [outcome]
            dist.broadcast_object_list(box, src=0, group=group)
            outcome = box[0]
        cause, result = outcome
        if cause is not None:
            raise error(cause)
        return result


def gather_pair_images(images: torch.Tensor, sizes: tuple[int, int], mesh: Mesh) -> torch.Tensor:
    """The images that both ranks of a pair decoded, rank 0's first: uint8 [n, 3, 224, 224] → [sum(sizes), 3, 224, 224].

    Channels-last memory on the mesh's device, in and out; n = sizes[model_rank]. Raises ValueError for another n.
    """
    rows = sizes[mesh.model_rank]
    if len(images) != rows:
        raise ValueError(f"rank {mesh.model_rank} of a pair should hold {rows} of {sum(sizes)} samples: {len(images)}")
    pixels = images.permute(0, 2, 3, 1)  # contiguous: no copy
    message = torch.zeros(max(sizes), *pixels.shape[1:], dtype=torch.uint8, device=images.device)
    message[:rows].copy_(pixels)
    both = [torch.empty_like(message) for _ in sizes]
    dist.all_gather(both, message, group=mesh.exchange_group)
    return torch.cat([part[:size] for part, size in zip(both, sizes)]).permute(0, 3, 1, 2)
