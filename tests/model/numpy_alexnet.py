"""AlexNet's forward pass in NumPy, float64, tower by tower, written from the paper and the original's layer files.

Nothing of `model` is used: arrays in, arrays out. Weights go by their unsplit names; the towers are their halves.
`ablate` names the parts that are left out, as in `train.py --ablate`.
"""

from collections.abc import Callable, Collection, Mapping

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


def pool(x: np.ndarray, size: int) -> np.ndarray:
    """size×size, stride 2."""
    return sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))


def channel_norm(x: np.ndarray, scale: float) -> np.ndarray:
    squares = np.pad(x**2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    sums = sliding_window_view(squares, 5, axis=1).sum(-1)
    return x / (2 + scale * sums) ** 0.75


def pixel_norm(x: np.ndarray) -> np.ndarray:
    squares = np.pad(x**2, ((0, 0), (0, 0), (2, 2), (2, 2)))
    sums = sliding_window_view(squares, (5, 5), axis=(2, 3)).sum(axis=(4, 5))
    return x / (1 + 1e-3 / 25 * sums) ** 0.75


def lower_layers(
    recipe: str, images: np.ndarray, part: Callable[[str], np.ndarray], ablate: Collection[str]
) -> np.ndarray:
    """One tower up to the pooled maps of conv2; `part` gives its share of a parameter."""
    size = 2 if "overlap" in ablate else 3
    padding, scale = ((2, 2), 1e-4) if recipe == "paper" else ((0, 3), 1e-4 / 5)

    def norm(x: np.ndarray) -> np.ndarray:
        return x if "norms" in ablate else channel_norm(x, scale)

    x = convolve(images, part("conv1.weight"), part("conv1.bias"), padding, 4)
    x = pool(norm(relu(x)), size) if recipe == "paper" else relu(pool(norm(x), size))
    x = norm(relu(convolve(x, part("conv2.weight"), part("conv2.bias"), (2, 2))))
    return pool(x if recipe == "paper" or "norms" in ablate else pixel_norm(x), size)


def logits(
    recipe: str, weights: Mapping[str, np.ndarray], images: np.ndarray, mask: Mask, ablate: Collection[str] = ()
) -> np.ndarray:
    """[n, classes] of images [n, 3, 224, 224]; `mask(layer, units)` multiplies the outputs of fc6 and fc7."""
    towers = range(1 if "columns" in ablate else 2)

    def part(tower: int) -> Callable[[str], np.ndarray]:
        return lambda name: np.split(weights[name], len(towers))[tower]

    pooled = [lower_layers(recipe, images, part(tower), ablate) for tower in towers]
    tops = []
    for tower in towers:
        w, x = part(tower), pooled[tower]
        if "conv3" not in ablate:
            x = relu(convolve(np.concatenate(pooled, axis=1), w("conv3.weight"), w("conv3.bias"), (1, 1)))
        for layer in sorted({"conv4", "conv5"}.difference(ablate)):
            x = relu(convolve(x, w(f"{layer}.weight"), w(f"{layer}.bias"), (1, 1)))
        # ReLU and pooling in either order: the largest of the rectified is the rectified largest
        tops.append(pool(x, 2 if "overlap" in ablate else 3))
    hidden = np.concatenate(tops, axis=1).reshape(len(images), -1)
    for layer in ("fc6", "fc7"):
        hidden = relu(hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
        if "dropout" not in ablate:
            hidden = hidden * mask(int(layer[2]), hidden.shape[1])
    return hidden @ weights["fc8.weight"].T + weights["fc8.bias"]
