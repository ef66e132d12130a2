"""The CPU's response norms in numba: float arrays in channels_last memory in, the output or the input's gradient out.

With s = constant + scale · Σ a² over a neighborhood of 5 channels or of 5×5 pixels:

    forward   b = a · s^-0.75
    backward  ∂a = ∂b · s^-0.75 − 1.5 · scale · a · Σ t,   t = ∂b · a · s^-1.75,  Σ over the same neighborhood

A kernel goes forward where `dy`, the output's gradient ∂b, is None: then a stands for ∂b in the first term, which is b.
Both ways compute s from a, so that nothing but a is kept for the backward pass. s^-0.75 = r·√r with r = 1/√s: two roots
and a division, where a power costs ten times more. All loops run over flat memory, so that they vectorize at any width.
Every output is computed alone and in one order: the number of threads changes nothing.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit

BLOCK = 2048  # elements at a time across channels: the scratch stays in the first-level cache
PIECES_PER_THREAD = 4  # smaller pieces even out what other work on the machine takes away

# Without the error model of NumPy each division is first compared with zero, and no loop vectorizes.
_compiled = njit(nogil=True, fastmath={"contract"}, error_model="numpy", cache=True)


@functools.cache
def edge_masks(channels: int, dtype: np.dtype) -> np.ndarray:
    """Whether the neighbors at −2, −1, +1, +2 are channels of the same tower: 0 or 1, [4, block], whole pixels."""
    channel = np.arange(channels * max(1, BLOCK // channels)) % channels
    return np.stack([(channel + step >= 0) & (channel + step < channels) for step in (-2, -1, 1, 2)]).astype(dtype)


@_compiled
def _sum_over_channels(values, masks, i):  # type: ignore[no-untyped-def]
    """Σ of `values`, padded by two at either end, over the five channels around element i."""
    near = masks[1, i] * values[i + 1] + masks[2, i] * values[i + 3]
    return values[i + 2] + near + (masks[0, i] * values[i] + masks[3, i] * values[i + 4])


@_compiled
def channel_norm(x, dy, out, masks, constant, scale, start, stop):  # type: ignore[no-untyped-def]
    """Fill out[start:stop]; arrays flat [pixels · towers · channels], start a multiple of the channels of a tower."""
    block = masks.shape[1]
    squares, terms = np.zeros(block + 4, x.dtype), np.zeros(block + 4, x.dtype)
    one, slope = x.dtype.type(1), x.dtype.type(1.5) * scale
    for base in range(start, stop, block):
        end = min(base + block, stop)
        a, da = x[base:end], out[base:end]
        db = a if dy is None else dy[base:end]
        for i in range(a.size):
            squares[i + 2] = a[i] * a[i]
        for i in range(a.size):
            r = one / np.sqrt(constant + scale * _sum_over_channels(squares, masks, i))
            da[i] = db[i] * (r * np.sqrt(r))
            if dy is not None:
                terms[i + 2] = da[i] * a[i] * (r * r)
        if dy is not None:
            for i in range(a.size):
                da[i] -= slope * a[i] * _sum_over_channels(terms, masks, i)


@_compiled
def _five(rows, row, zeros):  # type: ignore[no-untyped-def]
    """The five rows around `row` of `rows` [H, W·C]; zeros stand for those that are not there."""
    last = rows.shape[0] - 1
    return (
        rows[row - 2] if row >= 2 else zeros,
        rows[row - 1] if row >= 1 else zeros,
        rows[row],
        rows[row + 1] if row + 1 <= last else zeros,
        rows[row + 2] if row + 2 <= last else zeros,
    )


@_compiled
def _add_columns(sums, channels, out):  # type: ignore[no-untyped-def]
    """out [W·C] = Σ over the five columns around each, of sums, padded by two columns of zeros at either end."""
    size = out.size
    a, b = sums[:size], sums[channels : channels + size]
    c = sums[2 * channels : 2 * channels + size]
    d, e = sums[3 * channels : 3 * channels + size], sums[4 * channels : 4 * channels + size]
    for i in range(size):
        out[i] = c[i] + (b[i] + d[i]) + (a[i] + e[i])


@_compiled
def spatial_norm(x, dy, out, channels, constant, scale, start, stop):  # type: ignore[no-untyped-def]
    """Fill the images out[start:stop]; arrays [n, H, W·C]."""
    zeros, sums_here = np.zeros(x.shape[2], x.dtype), np.empty(x.shape[2], x.dtype)
    column_sums = np.zeros(x.shape[2] + 4 * channels, x.dtype)
    inner = column_sums[2 * channels : 2 * channels + x.shape[2]]
    terms = np.empty(x.shape[1:], x.dtype)
    one, slope = x.dtype.type(1), x.dtype.type(1.5) * scale
    for image in range(start, stop):
        for row in range(x.shape[1]):
            a, b, c, d, e = _five(x[image], row, zeros)
            for i in range(c.size):
                inner[i] = c[i] * c[i] + (b[i] * b[i] + d[i] * d[i]) + (a[i] * a[i] + e[i] * e[i])
            _add_columns(column_sums, channels, sums_here)
            da, t = out[image, row], terms[row]
            db = c if dy is None else dy[image, row]
            for i in range(c.size):
                r = one / np.sqrt(constant + scale * sums_here[i])
                da[i] = db[i] * (r * np.sqrt(r))
                if dy is not None:
                    t[i] = da[i] * c[i] * (r * r)
        for row in range(0 if dy is None else x.shape[1]):
            a, b, c, d, e = _five(terms, row, zeros)
            for i in range(c.size):
                inner[i] = c[i] + (b[i] + d[i]) + (a[i] + e[i])
            _add_columns(column_sums, channels, sums_here)
            here, da = x[image, row], out[image, row]
            for i in range(c.size):
                da[i] -= slope * here[i] * sums_here[i]


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of this process (a forked child makes its own)."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"response-norm-{process}")


def over_threads(kernel: Callable[..., None], arguments: tuple[object, ...], items: int, step: int = 1) -> None:
    """kernel(*arguments, start, stop) over pieces of range(items · step), cut at multiples of step.

    As many threads as torch uses. Numba's own `prange` is not used: its default threading layer ends the process when
    two threads of a program come to it at once, as a loader and a network may.
    """
    threads = torch.get_num_threads()
    pieces = min(items, threads * PIECES_PER_THREAD)
    if threads == 1 or pieces < 2:
        kernel(*arguments, 0, items * step)
        return
    cuts = [items * piece // pieces * step for piece in range(pieces + 1)]
    futures = [_pool(os.getpid(), threads).submit(kernel, *arguments, *cuts[i : i + 2]) for i in range(pieces)]
    for future in futures:
        future.result()
