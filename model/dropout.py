"""Dropout masks that are a pure function of (seed, step, layer, sample id, unit).

A `DropoutKey` goes in for each training step, masks come out: the same on CPU and GPU, for any number of ranks, for a
whole layer or one tower's part of it, and for a batch in any order or in any number of pieces.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64  # the int64 with the same bits


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Logical right shift of int64 (`>>` alone copies the sign)."""
    return (bits >> places) & (2 ** (64 - places) - 1)


def mix(bits: Tensor) -> Tensor:
    """Scramble int64 to int64, one to one: the finalizer of SplitMix64 (Steele, Lea, Flood 2014), products wrap."""
    bits = _multiplied(bits)
    return bits ^ _shifted(bits, 31)


def _multiplied(bits: Tensor) -> Tensor:
    """`mix` but for its last line, which leaves the 31 highest bits, the sign among them, as they are."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    return (bits ^ _shifted(bits, 27)) * _SECOND


_UNIT_KEYS: dict[tuple[int, int, int, torch.device], Tensor] = {}


def _unit_keys(layer: int, units: int, first: int, device: torch.device) -> Tensor:
    """int64 [units]; made once, since they are the same in every step."""
    compiling, name = torch.compiler.is_compiling(), (layer, units, first, device)
    if not compiling and name in _UNIT_KEYS:
        return _UNIT_KEYS[name]
    keys = mix(torch.arange(first, first + units, device=device) + (layer << 32))
    if not compiling and type(keys) is Tensor:  # others, as fake tensors, belong to the mode that made them
        _UNIT_KEYS[name] = keys
    return keys


@dataclass(frozen=True)
class DropoutKey:
    """What one step's dropout masks depend on.

    seed, step: 0 or more and below 2^63; step counts the updates done since the run began.
    ids: int64 [n] on any device, the samples' positions in the split, one for each image of the batch.
    Raises ValueError for a wrong type, shape or range.
    """

    seed: int
    step: int
    ids: Tensor
    sample_keys: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("seed", self.seed), ("step", self.step)):
            if not 0 <= value < 2**63:
                raise ValueError(f"dropout's {name} is {value}, expected 0 or more and below 2^63")
        if self.ids.dtype != torch.int64 or self.ids.ndim != 1:
            raise ValueError(
                f"dropout's ids are {self.ids.dtype} {list(self.ids.shape)}, expected int64 [n], one for each image"
            )
        run = mix(torch.tensor(self.seed) + 1)
        step = mix(run ^ torch.tensor(self.step))
        object.__setattr__(self, "sample_keys", mix(self.ids ^ step.item()))

    def mask(self, layer: int, units: int, first: int = 0) -> Tensor:
        """Whether each unit is kept, bool [n, units] on the ids' device; each is with probability ½.

        layer: a number that tells layers apart (6 for fc6). units, first: first..first+units-1 of the unsplit layer.
        """
        return _multiplied(self.sample_keys[:, None] ^ _unit_keys(layer, units, first, self.ids.device)) < 0
