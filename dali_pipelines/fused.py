"""The tail of the graph as one compiled pass on the CPU: mirror, mean, color, scale, or mirror alone.

Enters: addresses of decoded uint8 RGB images, rows one after the other. Leaves: crops in a channels-last buffer.
DALI's own operators for this pass over the pixels several times, each pass into other memory; this one reads each
pixel once and writes it once. It holds no GIL and is compiled once, to a cache on disk.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dali_pipelines.augmentation import CROP

ROW = CROP * 3  # bytes of a crop's row
_FIVE = 15  # bytes of the five pixels that one 16-byte vector holds
_WHOLE = CROP // 5 * _FIVE  # bytes of a row that are reversed by vectors; the remaining pixels one by one
# byte i of five reversed pixels, of a vector that begins one byte before them; byte 15 does not matter
_REVERSED = [1 + 3 * (4 - i // 3) + i % 3 for i in range(_FIVE)] + [0]


def _as_pointer(typing_context: Any, address: Any) -> Any:
    """An integer address as a pointer to bytes, in compiled code."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.CPointer(types.uint8)(address), code


def _store_reversed_five(typing_context: Any, target: Any, source: Any) -> Any:
    """Five pixels at source + 1, last to first, to target; touches 16 bytes from each address, in compiled code."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), 16)
        target, source = (builder.inttoptr(address, vector.as_pointer()) for address in arguments)
        pixels = builder.load(source, align=1)
        places = ir.Constant(ir.VectorType(ir.IntType(32), 16), _REVERSED)
        builder.store(builder.shuffle_vector(pixels, pixels, places), target, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


_pointer: Any = intrinsic(_as_pointer)
_reverse_five: Any = intrinsic(_store_reversed_five)


@numba.njit(nogil=True, cache=True)
def _reverse_row(target: Any, source: Any) -> None:
    """The 224 pixels at address `source`, last to first, to address `target`; nothing outside is touched."""
    for done in range(0, _WHOLE, _FIVE):
        _reverse_five(target + done, source + ROW - done - _FIVE - 1)
    pixels, reversed_pixels = numba.carray(_pointer(source), ROW), numba.carray(_pointer(target), ROW)
    for byte in range(_WHOLE, ROW):
        reversed_pixels[byte] = pixels[ROW - 3 - byte // 3 * 3 + byte % 3]


@numba.njit(nogil=True, cache=True)
def mirrored_crops(
    addresses: NDArray[np.int64],
    width: int,
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    mirror: NDArray[np.bool_],
    out: NDArray[np.uint8],
) -> None:
    """out[i] = the crop at (y[i], x[i]) of the image of `width` columns at addresses[i], mirrored where said.

    out: uint8 [n, 224, 224, 3].
    """
    for i in range(len(addresses)):
        for row in range(CROP):
            source = addresses[i] + ((y[i] + row) * width + x[i]) * 3
            target = np.int64(out.ctypes.data) + (i * CROP + row) * ROW
            if mirror[i]:
                _reverse_row(target, source)
            else:
                pixels, copied = numba.carray(_pointer(source), ROW), numba.carray(_pointer(target), ROW)
                for byte in range(ROW):
                    copied[byte] = pixels[byte]


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def normalized_crops(
    addresses: NDArray[np.int64],
    width: int,
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    mirror: NDArray[np.bool_],
    means: NDArray[np.float32],
    mean_y: NDArray[np.int32],
    mean_x: NDArray[np.int32],
    mean_mirror: NDArray[np.bool_],
    rgb_offset: NDArray[np.float32],
    scale: np.float32,
    out: NDArray[np.float32],
) -> None:
    """out[i] = (mirrored crop − mirrored crop of the mean at (mean_y[i], mean_x[i]) + rgb_offset[i]) · scale.

    means: float32 [2, 256, 256, 3], the mean image and the mean image mirrored. out: float32 [n, 224, 224, 3].
    """
    offset, reversed_pixels = np.empty(ROW, np.float32), np.empty(ROW, np.uint8)
    address_of_reversed, side = np.int64(reversed_pixels.ctypes.data), means.shape[2]
    for i in range(len(addresses)):
        for byte in range(ROW):
            offset[byte] = rgb_offset[i, byte % 3] * scale
        first = (side - CROP - mean_x[i] if mean_mirror[i] else mean_x[i]) * 3
        for row in range(CROP):
            source = addresses[i] + ((y[i] + row) * width + x[i]) * 3
            if mirror[i]:
                _reverse_row(address_of_reversed, source)
                source = address_of_reversed
            pixels = numba.carray(_pointer(source), ROW)
            mean = means[int(mean_mirror[i]), mean_y[i] + row].reshape(-1)[first : first + ROW]
            target = out[i, row].reshape(-1)
            for byte in range(ROW):
                target[byte] = (np.float32(pixels[byte]) - mean[byte]) * scale + offset[byte]
