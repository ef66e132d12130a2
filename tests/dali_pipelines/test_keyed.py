"""Keyed random numbers: against SplitMix64's published stream, written out again, and against chance."""

import math

import numpy as np
import pytest

from dali_pipelines.keyed import below, keyed_bits, keyed_normals, mixed_key

# the published test vector: the first five numbers of SplitMix64 seeded with 1234567
SPLITMIX64 = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
GOLDEN = 0x9E3779B97F4A7C15


def scalar_mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % 2**64
    return word ^ (word >> 31)


def scalar_bits(key: int, counter: int) -> int:
    return scalar_mix(scalar_mix((counter * GOLDEN + key) % 2**64) ^ key)


def test_one_part_is_splitmix64s_next_number() -> None:
    assert mixed_key(1234567) == SPLITMIX64[0]
    assert [mixed_key((1234567 + place * GOLDEN) % 2**64) for place in range(5)] == SPLITMIX64


def test_parts_order_and_number_matter() -> None:
    keys = {mixed_key(), mixed_key(0), mixed_key(0, 0), mixed_key(1, 2), mixed_key(2, 1), mixed_key(1, 2, 0)}
    assert len(keys) == 6


def test_bits_are_those_of_the_scalar_formula_in_any_shape_and_order() -> None:
    counters = np.array([[0, 1, 2], [1_281_166, 2**40, 7]])
    expected = [[scalar_bits(99, int(counter)) for counter in row] for row in counters]
    assert keyed_bits(99, counters).tolist() == expected
    assert keyed_bits(99, counters[::-1]).tolist() == expected[::-1]
    assert counters.tolist() == [[0, 1, 2], [1_281_166, 2**40, 7]]  # the caller's array is left alone


@pytest.mark.parametrize("bound", [2, 33, 2048])
def test_below_reaches_every_value_equally_often(bound: int) -> None:
    draws = below(keyed_bits(3, np.arange(bound * 1000)), bound)
    counts = np.bincount(draws, minlength=bound)
    chi_squared = float((((counts - 1000) ** 2) / 1000).sum())
    assert len(counts) == bound
    assert abs(chi_squared - (bound - 1)) < 5 * math.sqrt(2 * (bound - 1))


def test_below_takes_the_upper_half() -> None:
    assert below(np.array([0, 2**63, 2**64 - 1], np.uint64), 33).tolist() == [0, 16, 32]


def test_normals_are_normal_independent_and_keyed() -> None:
    ids = np.arange(200_000)
    deviates = keyed_normals(17, ids, 3)
    assert deviates.shape == (200_000, 3)
    error = 5 / math.sqrt(len(ids))
    assert np.abs(deviates.mean(axis=0)).max() < error
    assert np.abs(np.cov(deviates.T) - np.eye(3)).max() < 2 * error
    assert np.abs((deviates**4).mean(axis=0) - 3).max() < 10 * error
    assert np.abs(np.corrcoef(deviates[:-1, 0], deviates[1:, 0])[0, 1]) < error
    some = np.array([5, 199_999, 0])
    np.testing.assert_array_equal(keyed_normals(17, some, 3), deviates[some])
    assert not np.isin(keyed_normals(18, some, 3), deviates[some]).any()
