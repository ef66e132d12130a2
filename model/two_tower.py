"""AlexNet split over two processes, one tower each: the same images in, the same logits out, on both.

    rank 0   conv1a conv2a ┐      ┌ conv3a conv4a conv5a ┐      ┌ fc6a ┐      ┌ fc7a   fc8 of a ┐
                           exchange                      exchange      exchange                 sum → logits
    rank 1   conv1b conv2b ┘      └ conv3b conv4b conv5b ┘      └ fc6b ┘      └ fc7b   fc8 of b ┘

The loss counts once for the pair: both ranks compute it from the same logits, each takes its part of the gradients.
`split_state` and `join_state` translate between the unsplit layout, which checkpoints hold, and the two towers'.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.alexnet import ModelConfig, Towers, initial_state
from model.recipe import LAYERS

# Where a parameter is cut in two: dimension 0 unless said otherwise; fc8's bias belongs to both towers.
CUT_ACROSS_INPUTS = "fc8.weight"
SHARED = "fc8.bias"


def exchange_activations(mine: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The other rank's tensor, of the same shape, dtype and memory format; both ranks of the pair must call it."""
    if not mine.numel():
        return mine.clone()
    maps = mine.ndim == 4
    rows = (mine.permute(0, 2, 3, 1) if maps else mine).contiguous()
    both = [torch.empty_like(rows), torch.empty_like(rows)]
    dist.all_gather(both, rows, group=group)
    others = both[1 - dist.get_rank(group)]
    return others.permute(0, 3, 1, 2) if maps else others


class _Exchange(torch.autograd.Function):
    """[n, c, …] of this tower → [n, 2c, …] of both, tower 0's first. Backward: both ranks' gradients, added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = [x, exchange_activations(x, group)]
        return torch.cat(parts if dist.get_rank(group) == 0 else parts[::-1], dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        parts = gradient.chunk(2, dim=1)
        tower = dist.get_rank(ctx.group)
        return parts[tower] + exchange_activations(parts[1 - tower], ctx.group), None


class TwoTowerAlexNet(Towers):
    """This rank's tower; its rank in `group`, which has two, is the tower's number.

    Weights: this tower's part of AlexNet(config, seed). Called like AlexNet, by both ranks with the same batch, which
    may be empty; both get the full logits. Raises ValueError unless the group has two ranks and the network two towers.
    """

    def __init__(self, config: ModelConfig, group: dist.ProcessGroup, seed: int = 0) -> None:
        if dist.get_world_size(group) != 2:
            raise ValueError(f"the model group has {dist.get_world_size(group)} ranks, expected 2, one for each tower")
        if config.towers != 2:
            raise ValueError("a network without columns has one tower, which two processes cannot share")
        super().__init__(config, towers=1)
        self.group = group
        self.first_tower = dist.get_rank(group)
        self.load_state_dict(split_state(initial_state(config, seed), self.first_tower))

    def exchange(self, x: Tensor) -> Tensor:
        return _Exchange.apply(x, self.group)

    def add_up(self, parts: Tensor) -> Tensor:
        # the same bits on both; detached, since the loss counts once: each rank's gradient goes into its own part
        return parts + exchange_activations(parts.detach(), self.group)


def split_state(state: Mapping[str, Tensor], tower: int) -> dict[str, Tensor]:
    """Tower 0's or 1's part of `state`, a mapping from unsplit parameter names to tensors (weights, or velocities)."""
    parts = {}
    for name, tensor in state.items():
        if name != SHARED and tensor.shape[_cut(name)] % 2:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, which two towers cannot share")
        parts[name] = (tensor if name == SHARED else tensor.chunk(2, dim=_cut(name))[tower]).clone()
    return parts


def join_state(towers: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The unsplit layout of [tower 0's, tower 1's]; the inverse of `split_state`."""
    first, second = towers
    return {
        name: tensor.clone() if name == SHARED else torch.cat([tensor, second[name]], dim=_cut(name))
        for name, tensor in first.items()
    }


def _cut(name: str) -> int:
    if name.rpartition(".")[0] not in LAYERS:
        raise ValueError(f"no parameter of this network is called {name!r}")
    return 1 if name == CUT_ACROSS_INPUTS else 0
