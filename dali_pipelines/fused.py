"""The tail of the graph as one compiled pass on the CPU: mirror, mean, colour, scale, or mirror alone.

Enters: addresses of decoded uint8 RGB images, rows one after the other. Leaves: crops in a channels-last buffer.
DALI's own operators for this pass over the pixels several times, each pass into fresh memory; this one reads each
pixel once and writes it once. It holds no GIL and is compiled once, to a cache on disk.
"""

from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dali_pipelines.augmentation import CROP


def _as_pointer(typing_context: Any, address: Any) -> Any:
    """An integer address as a pointer to bytes, in compiled code."""
    signature = types.CPointer(types.uint8)(address)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return signature, code


_pointer: Any = intrinsic(_as_pointer)


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
        image = numba.carray(_pointer(addresses[i]), (y[i] + CROP, width * 3))
        for row in range(CROP):
            source = image[y[i] + row, x[i] * 3 : (x[i] + CROP) * 3]
            target = out[i, row].reshape(CROP * 3)
            if mirror[i]:
                for column in range(CROP):
                    for channel in range(3):
                        target[column * 3 + channel] = source[(CROP - 1 - column) * 3 + channel]
            else:
                target[:] = source


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def standardised_crops(
    addresses: NDArray[np.int64],
    width: int,
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    mirror: NDArray[np.bool_],
    mean: NDArray[np.float32],
    mean_y: NDArray[np.int32],
    mean_x: NDArray[np.int32],
    mean_mirror: NDArray[np.bool_],
    rgb_offset: NDArray[np.float32],
    scale: np.float32,
    out: NDArray[np.float32],
) -> None:
    """out[i] = (mirrored crop − mirrored crop of `mean` at (mean_y[i], mean_x[i]) + rgb_offset[i]) · scale.

    mean: float32 [256, 256, 3]. out: float32 [n, 224, 224, 3].
    """
    offset = np.empty(CROP * 3, np.float32)
    pixels = np.empty(CROP * 3, np.uint8)
    means = np.empty(CROP * 3, np.float32)
    for i in range(len(addresses)):
        image = numba.carray(_pointer(addresses[i]), (y[i] + CROP, width * 3))
        for column in range(CROP):
            for channel in range(3):
                offset[column * 3 + channel] = rgb_offset[i, channel] * scale
        for row in range(CROP):
            source = image[y[i] + row, x[i] * 3 : (x[i] + CROP) * 3]
            mean_row = mean[mean_y[i] + row].reshape(-1)[mean_x[i] * 3 : (mean_x[i] + CROP) * 3]
            target = out[i, row].reshape(CROP * 3)
            if mirror[i]:
                for column in range(CROP):
                    for channel in range(3):
                        pixels[column * 3 + channel] = source[(CROP - 1 - column) * 3 + channel]
                source = pixels
            if mean_mirror[i]:
                for column in range(CROP):
                    for channel in range(3):
                        means[column * 3 + channel] = mean_row[(CROP - 1 - column) * 3 + channel]
                mean_row = means
            for j in range(CROP * 3):
                target[j] = (np.float32(source[j]) - mean_row[j]) * scale + offset[j]
