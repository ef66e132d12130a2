"""The paired difference against scipy, a table of McNemar's, and a simulation of its interval."""

import numpy as np
import pytest
from scipy.stats import binom

from evaluation.tables import compare_answers


def answers(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return np.array(first), np.array(second)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # one coin
        (6, 0, 2 / 64),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (5, 5, 1.0),
        (121, 59, 2 * float(binom.cdf(59, 180, 0.5))),  # Agresti 2002, table 10.1's kind: far from chance
    ],
)
def test_mcnemars_exact_test(only_first: int, only_second: int, p_value: float) -> None:
    found = compare_answers(*answers(50, only_first, only_second, 20))
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(min(p_value, 1.0))
    assert found.difference == pytest.approx((only_first - only_second) / (70 + only_first + only_second))


def test_the_error_rises_where_the_second_loses_images() -> None:
    worse = compare_answers(*answers(60, 30, 5, 5))
    assert 0 < worse.low < worse.difference < worse.high and worse.p_value < 1e-4
    better = compare_answers(*reversed(answers(60, 30, 5, 5)))
    assert (better.low, better.difference, better.high) == pytest.approx((-worse.high, -worse.difference, -worse.low))


def test_the_interval_holds_the_true_difference_in_19_of_20_cases() -> None:
    random = np.random.default_rng(2)
    for shares, images in (((0.5, 0.2, 0.1, 0.2), 40), ((0.6, 0.06, 0.04, 0.3), 300)):
        true, held = shares[1] - shares[2], 0
        for _ in range(1000):
            found = compare_answers(*answers(*random.multinomial(images, shares)))
            held += found.low <= true <= found.high
        assert 0.93 < held / 1000 < 0.985


@pytest.mark.parametrize(("first", "second"), [(3, 4), (0, 0)])
def test_other_images_are_refused(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="the same images"):
        compare_answers(np.ones(first, bool), np.ones(second, bool))
