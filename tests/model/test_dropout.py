"""Dropout masks against SplitMix64 in plain integers; the same for any batch, part of a layer, and device."""

import itertools

import pytest
import torch

from model.dropout import DropoutKey
from tests.model.operations import Operations

WORD = 2**64 - 1


def splitmix(bits: int) -> int:
    """The finalizer of SplitMix64 in Python's unbounded integers, reduced to 64 bits."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & WORD
    return bits ^ (bits >> 31)


def kept(seed: int, step: int, layer: int, sample: int, unit: int) -> bool:
    """Whether a unit is kept, by the definition: the top bit of the last mix."""
    key = splitmix(splitmix(splitmix(seed + 1) ^ step) ^ sample)
    return splitmix(key ^ splitmix((layer << 32) + unit)) >> 63 == 1


def test_equals_the_definition_in_plain_integers() -> None:
    ids = torch.tensor([0, 1, 1_281_166, 2**62 + 3])
    combinations = list(itertools.product((0, 2012, 2**63 - 1), (0, 1, 470_000), (6, 7)))
    assert len(combinations) == 18
    for seed, step, layer in combinations:
        mask = DropoutKey(seed, step, ids).mask(layer, 40)
        assert mask.dtype == torch.bool
        assert mask.tolist() == [[kept(seed, step, layer, int(i), unit) for unit in range(40)] for i in ids]


def test_a_mask_is_few_operations() -> None:
    key = DropoutKey(1, 2, torch.arange(3))
    key.mask(6, 50)  # the units' keys are made once
    with Operations() as operations:
        key.mask(6, 50)
    assert 5 <= len([name for name in operations.names if "unsqueeze" not in name]) <= 10, operations.names


def test_half_of_the_units_are_kept_and_nothing_is_correlated() -> None:
    ids, units = torch.arange(500), 4000
    first = DropoutKey(7, 11, ids).mask(6, units)
    assert abs(first.double().mean().item() - 0.5) < 4 * 0.5 / (500 * units) ** 0.5
    others = {
        "seed": DropoutKey(8, 11, ids).mask(6, units),
        "step": DropoutKey(7, 12, ids).mask(6, units),
        "layer": DropoutKey(7, 11, ids).mask(7, units),
        "sample": DropoutKey(7, 11, ids + 1).mask(6, units),
        "unit": DropoutKey(7, 11, ids).mask(6, units, first=1),
    }
    for name, other in others.items():
        agreement = (first == other).double().mean().item()
        assert abs(agreement - 0.5) < 5 * 0.5 / (500 * units) ** 0.5, name
    deviation = 0.5 / units**0.5  # of a sample's share, and, with 500, of a unit's
    assert (first.double().mean(1) - 0.5).abs().max() < 5 * deviation
    assert (first.double().mean(0) - 0.5).abs().max() < 5 * 0.5 / 500**0.5


def test_a_part_of_the_batch_or_of_the_layer_has_its_part_of_the_mask() -> None:
    ids = torch.tensor([5, 3, 900, 41, 77])
    whole = DropoutKey(1, 2, ids).mask(7, 30)
    order = torch.tensor([4, 0, 2])
    assert torch.equal(DropoutKey(1, 2, ids[order]).mask(7, 30), whole[order])
    assert torch.equal(DropoutKey(1, 2, ids).mask(7, 13, first=17), whole[:, 17:])
    assert DropoutKey(1, 2, ids[:0]).mask(7, 30).shape == (0, 30)


@pytest.mark.parametrize(
    ("seed", "step", "ids", "what"),
    [
        (-1, 0, torch.arange(2), "seed is -1"),
        (2**63, 0, torch.arange(2), "seed is"),
        (0, -3, torch.arange(2), "step is -3"),
        (0, 0, torch.zeros(2), r"float32 \[2\], expected int64 \[n\]"),
        (0, 0, torch.zeros(2, 1, dtype=torch.int64), r"int64 \[2, 1\], expected int64 \[n\]"),
    ],
)
def test_what_is_no_key_is_refused(seed: int, step: int, ids: torch.Tensor, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        DropoutKey(seed, step, ids)


@pytest.mark.gpu
def test_the_gpu_draws_the_same_masks() -> None:
    ids = torch.arange(100) * 12_345
    mask = DropoutKey(3, 4, ids.cuda()).mask(6, 4096)
    assert mask.device.type == "cuda"
    assert torch.equal(mask.cpu(), DropoutKey(3, 4, ids).mask(6, 4096))
