"""AlexNet's forward pass in NumPy, float64, tower by tower, written from the paper and the original's layer files.

Nothing of `model` is used: arrays in, arrays out. Weights go by their unsplit names; the towers are their halves.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Mask = Callable[[int, int], np.ndarray]  # (layer, units) → the kept units, [n, units], or what to multiply with


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, pad: tuple[int, int], stride: int = 1) -> np.ndarray:
    """Cross-correlation, `pad` = zeros (above and left, below and right)."""
    padded = np.pad(x, ((0, 0), (0, 0), pad, pad))
    windows = sliding_window_view(padded, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,kcij->nkhw", windows, weight, optimize=True) + bias[:, None, None]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def pool(x: np.ndarray) -> np.ndarray:
    """3×3, stride 2."""
    return sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))


def channel_norm(x: np.ndarray, scale: float) -> np.ndarray:
    squares = np.pad(x**2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    sums = sliding_window_view(squares, 5, axis=1).sum(-1)
    return x / (2 + scale * sums) ** 0.75


def pixel_norm(x: np.ndarray) -> np.ndarray:
    squares = np.pad(x**2, ((0, 0), (0, 0), (2, 2), (2, 2)))
    sums = sliding_window_view(squares, (5, 5), axis=(2, 3)).sum(axis=(4, 5))
    return x / (1 + 1e-3 / 25 * sums) ** 0.75


def tower_convolutions(recipe: str, images: np.ndarray, part: Callable[[str], np.ndarray]) -> np.ndarray:
    """One tower up to the pooled maps of conv2; `part` gives its half of a parameter."""
    if recipe == "paper":
        x = pool(channel_norm(relu(convolve(images, part("conv1.weight"), part("conv1.bias"), (2, 2), 4)), 1e-4))
        return pool(channel_norm(relu(convolve(x, part("conv2.weight"), part("conv2.bias"), (2, 2))), 1e-4))
    x = relu(pool(channel_norm(convolve(images, part("conv1.weight"), part("conv1.bias"), (0, 3), 4), 1e-4 / 5)))
    x = relu(convolve(x, part("conv2.weight"), part("conv2.bias"), (2, 2)))
    return pool(pixel_norm(channel_norm(x, 1e-4 / 5)))


def logits(recipe: str, weights: Mapping[str, np.ndarray], images: np.ndarray, mask: Mask) -> np.ndarray:
    """[n, classes] of images [n, 3, 224, 224]; `mask(layer, units)` multiplies the outputs of fc6 and fc7."""

    def part(tower: int) -> Callable[[str], np.ndarray]:
        return lambda name: np.split(weights[name], 2)[tower]

    both = np.concatenate([tower_convolutions(recipe, images, part(tower)) for tower in (0, 1)], axis=1)
    tops = []
    for tower in (0, 1):
        w = part(tower)
        x = relu(convolve(both, w("conv3.weight"), w("conv3.bias"), (1, 1)))
        x = relu(convolve(x, w("conv4.weight"), w("conv4.bias"), (1, 1)))
        x = convolve(x, w("conv5.weight"), w("conv5.bias"), (1, 1))
        tops.append(relu(pool(x)))  # in either order: the largest of the rectified is the rectified largest
    hidden = np.concatenate(tops, axis=1).reshape(len(images), -1)
    for layer in ("fc6", "fc7"):
        hidden = relu(hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
        hidden = hidden * mask(int(layer[2]), hidden.shape[1])
    return hidden @ weights["fc8.weight"].T + weights["fc8.bias"]
