"""Random numbers that are a pure function of a key: no generator, no state, any order of asking.

Enters: integers that name what the number is for (seed, epoch, purpose) and an array of counters (sample ids).
Leaves: 64-bit words, integers below a bound, standard normal deviates, one row for each counter.

The words come from the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014, with Stafford's mix 13), applied once for each part of the key and twice for the
counter. It is written out here, and not taken from `numpy.random`, because NumPy does not promise the same
stream from one version to the next and a resumed run must be the same run.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@numba.njit(nogil=True, cache=True)
def mix(word: Any) -> Any:
    """The finaliser, for compiled code too: uint64 → uint64."""
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


@numba.njit(nogil=True, cache=True)
def keyed_word(key: Any, counter: Any) -> Any:
    """64 random bits for a key and a counter, for compiled code: uint64 all."""
    return mix(mix(counter * _GOLDEN + key) ^ key)


_keyed_words: Any = numba.vectorize(cache=True)(keyed_word.py_func)


def mixed_key(*parts: int) -> int:
    """One 64-bit word that stands for `parts`: other parts, or the same in another order, give another word."""
    word = 0
    for part in parts:
        word = int(mix(np.uint64((word + int(_GOLDEN) + part) % 2**64)))
    return word


def keyed_bits(key: int, counters: NDArray[Any]) -> NDArray[np.uint64]:
    """64 random bits for each of `counters` (any shape, values from 0): uint64 of the same shape."""
    return _keyed_words(np.uint64(key), counters.astype(np.uint64))


def below(bits: NDArray[np.uint64], bound: int) -> NDArray[np.int32]:
    """Integers 0..bound−1 from the upper halves of `bits`; unequal by less than bound/2³² of their share."""
    return (((bits >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int32)


def keyed_normals(key: int, counters: Integers, count: int) -> NDArray[np.float64]:
    """`count` independent N(0, 1) deviates for each of `counters` [n]: float64 [n, count] (Box and Muller)."""
    pairs = (count + 1) // 2
    lanes = counters.astype(np.uint64)[:, None] * np.uint64(2 * pairs) + np.arange(2 * pairs, dtype=np.uint64)
    uniform = ((keyed_bits(key, lanes) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:, :pairs])), 2.0 * np.pi * uniform[:, pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]
