"""Pictures → crops in a batch's memory, as one compiled pass: decode, crop, mirror, mean, color, scale.

Enters: addresses of JPEGs or of raw pixels, and `Crops`. Leaves: crops [n, 224, 224, 3] at an address. Each decoded row
goes on at once, while it lies in the processor's first cache, and each value of the batch is written once. Several
threads may work on one batch: each takes the next picture that nobody has taken, and none holds the GIL meanwhile.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dali_pipelines.augmentation import CROP, IMAGE, VIEWS
from dali_pipelines.libjpeg import (
    DECODED,
    MEMORY,
    UNDECODABLE,
    close_picture,
    open_picture,
    pointer,
    read_rows,
    rows_of,
)

ROW = CROP * 3  # bytes of a crop's row
_PICTURE_ROW = IMAGE * 3
# one thread's memory behind libjpeg's, by offsets: a reversed row, the table of a picture's crops, scales, offsets
_SCRATCH = MEMORY
_TABLE = _SCRATCH + ROW + 32
_Y, _X, _MIRROR, _MEAN, _OUT, _COLUMNS = range(6)
_SCALES = _TABLE + VIEWS * _COLUMNS * 8
_OFFSETS = _SCALES + ROW * 4
_FIVE = 15  # bytes of the five pixels that one 16-byte vector holds
_BY_FIVES = CROP // 5 * _FIVE  # bytes of a row that are reversed by vectors; the remaining pixels one by one
# byte i of five reversed pixels, of a vector that begins one byte before them; byte 15 does not matter
_REVERSED = [1 + 3 * (4 - i // 3) + i % 3 for i in range(_FIVE)] + [0]


class Crops(NamedTuple):
    """What is cut out of n pictures, `views` crops of each one after the other, and where it goes.

    y, x: int32 [n·views]; mirror: bool [n·views]; mean_…: the same of the mean image (`mean_crops`).
    means: float32 [2, 256, 256, 3], the mean image and the mean image mirrored; rgb_offset: float32 [n·views, 3];
    scale: float32 [3].
    out: address of n·views crops, float32 = (crop − mean + rgb_offset) · scale, or, not `normalized`, uint8 crops.
    """

    views: int
    y: NDArray[np.int32]
    x: NDArray[np.int32]
    mirror: NDArray[np.bool_]
    mean_y: NDArray[np.int32]
    mean_x: NDArray[np.int32]
    mean_mirror: NDArray[np.bool_]
    means: NDArray[np.float32]
    rgb_offset: NDArray[np.float32]
    scale: NDArray[np.float32]
    normalized: bool
    out: int

    def of_picture(self, number: int) -> "Crops":
        """The crops of one of the pictures alone."""
        part = slice(number * self.views, (number + 1) * self.views)
        arrays = ("y", "x", "mirror", "mean_y", "mean_x", "mean_mirror", "rgb_offset")
        crop_bytes = CROP * ROW * (4 if self.normalized else 1)
        return self._replace(
            **{name: getattr(self, name)[part] for name in arrays}, out=self.out + part.start * crop_bytes
        )


def _store_reversed_five(typing_context: Any, target: Any, source: Any) -> Any:
    """Five pixels at source + 1, last to first, to target; touches 16 bytes from each address, in compiled code."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), 16)
        target, source = (builder.inttoptr(address, vector.as_pointer()) for address in arguments)
        pixels = builder.load(source, align=1)
        order = ir.Constant(ir.VectorType(ir.IntType(32), 16), _REVERSED)
        builder.store(builder.shuffle_vector(pixels, pixels, order), target, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


def _fetch_and_add(typing_context: Any, address: Any) -> Any:
    """The int64 at an address, to which one is added before another thread reads it, in compiled code."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        return builder.atomic_rmw("add", builder.inttoptr(arguments[0], word.as_pointer()), word(1), "monotonic")

    return types.int64(types.int64), code


_reverse_five: Any = intrinsic(_store_reversed_five)
_take_next: Any = intrinsic(_fetch_and_add)


@numba.njit(nogil=True, cache=True)
def _reverse_row(target: Any, source: Any) -> None:
    """The 224 pixels at address `source`, last to first, to address `target`; nothing outside is touched."""
    for done in range(0, _BY_FIVES, _FIVE):
        _reverse_five(target + done, source + ROW - done - _FIVE - 1)
    pixels = numba.carray(pointer(source), ROW, np.uint8)
    reversed_pixels = numba.carray(pointer(target), ROW, np.uint8)
    for byte in range(_BY_FIVES, ROW):
        reversed_pixels[byte] = pixels[ROW - 3 - byte // 3 * 3 + byte % 3]


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _normalize_row(target: Any, source: Any, mean: Any, scale: Any, offset: Any) -> None:
    """float32 (pixel − mean) · scale + offset, all of them addresses of rows."""
    normalized, pixels = numba.carray(pointer(target), ROW, np.float32), numba.carray(pointer(source), ROW, np.uint8)
    means = numba.carray(pointer(mean), ROW, np.float32)
    scales, offsets = numba.carray(pointer(scale), ROW, np.float32), numba.carray(pointer(offset), ROW, np.float32)
    for byte in range(ROW):
        normalized[byte] = (np.float32(pixels[byte]) - means[byte]) * scales[byte] + offsets[byte]


@numba.njit(nogil=True, cache=True)
def _place_row(work: Any, views: Any, normalized: Any, row: Any, source: Any) -> None:
    """Row `row` of a picture, at address `source`, to each of its crops that has it."""
    table = numba.carray(pointer(work + _TABLE), (views, _COLUMNS), np.int64)
    for view in range(views):
        in_crop, pixels = row - table[view, _Y], source + table[view, _X] * 3
        if in_crop < 0 or in_crop >= CROP:
            continue
        if normalized:
            if table[view, _MIRROR]:
                _reverse_row(work + _SCRATCH, pixels)
                pixels = work + _SCRATCH
            target, mean = table[view, _OUT] + in_crop * ROW * 4, table[view, _MEAN] + in_crop * _PICTURE_ROW * 4
            _normalize_row(target, pixels, mean, work + _SCALES, work + _OFFSETS + view * ROW * 4)
        elif table[view, _MIRROR]:
            _reverse_row(table[view, _OUT] + in_crop * ROW, pixels)
        else:
            copied = numba.carray(pointer(table[view, _OUT] + in_crop * ROW), ROW, np.uint8)
            original = numba.carray(pointer(pixels), ROW, np.uint8)
            for byte in range(ROW):
                copied[byte] = original[byte]


@numba.njit(nogil=True, cache=True)
def _fill_table(work: Any, crops: Any, picture: Any) -> None:
    """What `_place_row` needs of a picture's crops, in integers: it is called for each row."""
    table = numba.carray(pointer(work + _TABLE), (crops.views, _COLUMNS), np.int64)
    scales = numba.carray(pointer(work + _SCALES), ROW, np.float32)
    offsets = numba.carray(pointer(work + _OFFSETS), (crops.views, ROW), np.float32)
    means, side = np.int64(crops.means.ctypes.data), crops.means.shape[2]
    for view in range(crops.views):
        crop = picture * crops.views + view
        mirrored = np.int64(crops.mean_mirror[crop])
        mean_x = side - CROP - crops.mean_x[crop] if mirrored else np.int64(crops.mean_x[crop])
        table[view, _Y], table[view, _X], table[view, _MIRROR] = crops.y[crop], crops.x[crop], crops.mirror[crop]
        table[view, _MEAN] = means + ((mirrored * side + crops.mean_y[crop]) * side + mean_x) * 3 * 4
        table[view, _OUT] = crops.out + crop * CROP * ROW * (4 if crops.normalized else 1)
        for byte in range(ROW):
            scales[byte] = crops.scale[byte % 3]
            offsets[view, byte] = crops.rgb_offset[crop, byte % 3] * crops.scale[byte % 3]


@numba.njit(nogil=True, cache=True)
def _place_jpeg(codec: Any, work: Any, address: Any, size: Any, views: Any, normalized: Any) -> int:
    """Decode one JPEG, row by row, into its crops; what became of it (`libjpeg.DECODED` …)."""
    y = numba.carray(pointer(work + _TABLE), (views, _COLUMNS), np.int64)[:, _Y]
    row, end = y.min(), y.max() + CROP
    status = open_picture(codec, work, address, size, row)
    while status == DECODED and row < end:
        count = read_rows(codec, work, end - row)
        if count <= 0:
            status = UNDECODABLE
        for number in range(count):
            _place_row(work, views, normalized, row + number, rows_of(work) + number * _PICTURE_ROW)
        row += count
    return close_picture(codec, work, status, row)


@numba.njit(nogil=True, cache=True)
def _place_pictures(
    codec: Any, addresses: Any, sizes: Any, width: Any, crops: Any, taken: Any, status: Any, memory: Any
) -> None:
    """See `place_pictures`. (Compiled code frees an array of its own after its last use by name: no address of it.)"""
    work = np.int64(memory.ctypes.data + 63) // 64 * 64
    while True:
        picture = _take_next(np.int64(taken.ctypes.data))
        if picture >= len(addresses):
            return
        _fill_table(work, crops, picture)
        if len(codec):
            status[picture] = _place_jpeg(
                codec, work, addresses[picture], sizes[picture], crops.views, crops.normalized
            )
        else:
            for row in range(width):
                _place_row(work, crops.views, crops.normalized, row, addresses[picture] + row * width * 3)


def place_pictures(
    codec: NDArray[np.int64],
    addresses: NDArray[np.int64],
    sizes: NDArray[np.int64],
    crops: Crops,
    taken: NDArray[np.int64],
    status: NDArray[np.int64],
    width: int = IMAGE,
) -> None:
    """Place the pictures that no other thread has taken.

    codec: `libjpeg.library()`, and JPEGs of `sizes` bytes lie at `addresses`; or, empty, `width`×`width` RGB pixels.
    taken: int64 [1], 0 at first; status: int64 [n], what became of each picture (pixels: left as it is).
    """
    memory = np.empty(_OFFSETS + crops.views * ROW * 4 + 64, np.uint8)
    _place_pictures(codec, addresses, sizes, width, crops, taken, status, memory)


def place_pixels(addresses: NDArray[np.int64], width: int, crops: Crops) -> None:
    """Place pictures that are pixels already, `width`×`width` RGB one after the other at each address."""
    nothing = np.zeros(0, np.int64)
    place_pictures(nothing, addresses, nothing, crops, np.zeros(1, np.int64), nothing, width)
