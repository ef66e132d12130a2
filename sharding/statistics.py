"""Exact sums over pictures → mean image, RGB mean and covariance, eigenpairs. Integers, so order and split are free."""

import struct
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from zipfile import BadZipFile

import numba
import numpy as np

from common.files import write_atomically
from sharding.record import ShardError

_SIDE = 256
_DAMAGED = (OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError, struct.error, BadZipFile, zlib.error)
"""What NumPy raises for a damaged `.npz`, by where the damage is."""

_SHAPES = {
    "mean_image": (_SIDE, _SIDE, 3), "rgb_mean": (3,), "rgb_covariance": (3, 3), "eigenvalues": (3,),
    "eigenvectors": (3, 3), "images": (),
}  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _add(pixels: np.ndarray, by_position: np.ndarray, products: np.ndarray) -> None:
    """Add one picture, uint8 [65536·3], to int64 [65536·3] by position and int64 [9] products of channels."""
    for k in range(pixels.size):
        by_position[k] += pixels[k]
    rr = gg = bb = rg = rb = gb = np.int64(0)
    for k in range(0, pixels.size, 3):
        red, green, blue = np.int64(pixels[k]), np.int64(pixels[k + 1]), np.int64(pixels[k + 2])
        rr += red * red
        gg += green * green
        bb += blue * blue
        rg += red * green
        rb += red * blue
        gb += green * blue
    for k, value in enumerate((rr, rg, rb, rg, gg, gb, rb, gb, bb)):
        products[k] += value


@dataclass
class Sums:
    """Integer sums over pictures of uint8 [256, 256, 3]: exact up to 10^14 pictures.

    `by_position` int64 [256, 256, 3]; `products` int64 [3, 3]: Σ of channel × channel over pictures and positions.
    """

    images: int = 0
    by_position: np.ndarray = field(default_factory=lambda: np.zeros((_SIDE, _SIDE, 3), np.int64))
    products: np.ndarray = field(default_factory=lambda: np.zeros((3, 3), np.int64))

    def add(self, pixels: np.ndarray) -> None:
        """Count one picture, uint8 [256, 256, 3]."""
        if pixels.shape != (_SIDE, _SIDE, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"{pixels.dtype} {pixels.shape}: expected uint8 (256, 256, 3)")
        _add(np.ascontiguousarray(pixels).reshape(-1), self.by_position.reshape(-1), self.products.reshape(-1))
        self.images += 1

    def merge(self, other: "Sums") -> None:
        """Add the sums over other pictures."""
        self.images += other.images
        self.by_position += other.by_position
        self.products += other.products

    @classmethod
    def load(cls, path: Path) -> "Sums":
        """Read the sums among the arrays of an `.npz` file, which are named as the fields."""
        with np.load(path) as arrays:
            return cls(int(arrays["images"]), arrays["by_position"], arrays["products"])

    def finish(self) -> "Statistics":
        """The statistics of all pictures counted, one at least: exact integers, divided once."""
        count = self.images * _SIDE * _SIDE
        total, second = self.by_position.sum(axis=(0, 1)).tolist(), self.products.tolist()
        covariance = np.array(
            [[(count * second[i][j] - total[i] * total[j]) / count**2 for j in range(3)] for i in range(3)]
        )
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, 0.0)  # gray pictures: a variance of 0 comes out as minus a rounding error
        values, vectors = values[::-1].copy(), vectors[:, ::-1].copy()
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(3)]
        return Statistics(
            mean_image=self.by_position / self.images,
            rgb_mean=np.array([value / count for value in total]),
            rgb_covariance=covariance,
            eigenvalues=values,
            eigenvectors=vectors * np.sign(largest),
            images=self.images,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """What standardizing and the color noise need, of the packed training pictures, on 0..255 data, RGB.

    `mean_image` float64 [256, 256, 3]; `rgb_mean` [3]; `rgb_covariance` [3, 3] about the RGB mean, over pictures and
    positions; `eigenvalues` [3] descending; `eigenvectors` [3, 3] in columns, each with its largest component positive;
    `images` how many pictures (Krizhevsky 2012 §2 and §4.1).
    """

    mean_image: np.ndarray
    rgb_mean: np.ndarray
    rgb_covariance: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    images: int

    def save(self, path: Path) -> None:
        """Write `statistics.npz`; the same statistics give the same bytes."""
        with write_atomically(path) as file:
            np.savez(file, **{entry.name: getattr(self, entry.name) for entry in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Read `statistics.npz`. Raises ShardError, which names file and array, if it is missing or not one."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {entry.name: file[entry.name] for entry in fields(cls)}
        except _DAMAGED as error:
            raise ShardError(f"{path}: cannot be read as statistics ({error}); pack the training split again") from None
        for name, shape in _SHAPES.items():
            array, kind = arrays[name], "int64" if name == "images" else "float64"
            broken = np.count_nonzero(~np.isfinite(array)) if array.dtype == kind else 0
            if array.shape != shape or array.dtype != kind:
                fault = f"is {array.dtype} {list(array.shape)}, expected {kind} {list(shape)}"
            elif broken:
                fault = f"holds {broken} values that are no numbers"
            elif name == "images" and array < 1:
                fault = f"is {array}, expected 1 or more"
            elif name == "eigenvalues" and array.min() < 0:
                fault = f"are {array.tolist()}, expected none below 0"
            else:
                continue
            raise ShardError(f"{path}: {name} {fault}; pack the training split again")
        return cls(**{**arrays, "images": int(arrays["images"])})
