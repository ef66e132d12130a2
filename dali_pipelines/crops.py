"""Pictures → crops in a batch's memory, as one compiled pass: decode, crop, mirror, mean, color, scale.

Enters: addresses of JPEGs or of raw pixels, and `Crops`. Leaves: crops [n, 224, 224, 3] at an address. Each decoded row
goes on at once, while it lies in the processor's first cache, and each value of the batch is written once. Several
threads may work on one batch: each takes the next picture that nobody has taken, and none holds the GIL meanwhile.
"""

import functools
import logging
from typing import Any, NamedTuple

import numba
import numpy as np
import simplejpeg
from llvmlite import ir
from numba.core import types
from numpy.typing import NDArray

from dali_pipelines import libjpeg
from dali_pipelines.augmentation import CENTER, CROP, IMAGE, VIEWS
from dali_pipelines.libjpeg import DECODED, UNDECODABLE, in_llvm, pointer

logger = logging.getLogger(__name__)

ROW = CROP * 3  # bytes of a crop's row
NO_CODEC = np.empty(0, np.int64)
_PICTURE_ROW = IMAGE * 3
# one thread's memory behind libjpeg's, by offsets: a reversed row, a row of scales, a row of offsets for each view
_SCRATCH = libjpeg.MEMORY
_SCALES = _SCRATCH + ROW + 32
_OFFSETS = _SCALES + ROW * 4
_BYTES = _OFFSETS + VIEWS * ROW * 4 + 64
_FIVE = 15  # bytes of the five pixels that one 16-byte vector holds
_BY_FIVES = CROP // 5 * _FIVE  # bytes of a row that are reversed by vectors; the remaining pixels one by one
# byte i of five reversed pixels, of a vector that begins one byte before them; byte 15 does not matter
_REVERSED = [1 + 3 * (4 - i // 3) + i % 3 for i in range(_FIVE)] + [0]
Y, X, MIRROR, MEAN, OUT, COLUMNS = range(6)


class Crops(NamedTuple):
    """What is cut out of n pictures, `views` crops of each one after the other, and where it goes.

    places: int64 [n·views, 5]: the crop's first row and column (Y, X), whether it is mirrored, the address of the value
    of the mean image (float32, 256×256 RGB) that belongs to the first pixel of its first row, and its own address.
    scale: float32 [3]; offset: float32 [n·views, 3]. A crop is float32 = (pixel − mean) · scale + offset, or, not
    `normalized`, uint8 pixels.
    """

    views: int
    places: NDArray[np.int64]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    normalized: bool


@in_llvm(types.void, types.int64, types.int64)
def _reverse_five(builder: Any, target: Any, source: Any) -> Any:
    """Five pixels at source + 1, last to first, to target; touches 16 bytes from each address."""
    vector = ir.VectorType(ir.IntType(8), 16).as_pointer()
    pixels = builder.load(builder.inttoptr(source, vector), align=1)
    order = ir.Constant(ir.VectorType(ir.IntType(32), 16), _REVERSED)
    return builder.store(builder.shuffle_vector(pixels, pixels, order), builder.inttoptr(target, vector), align=1)


@in_llvm(types.int64, types.int64)
def _fetch_and_add(builder: Any, address: Any) -> Any:
    """The int64 at an address, to which one is added before another thread reads it."""
    word = ir.IntType(64)
    return builder.atomic_rmw("add", builder.inttoptr(address, word.as_pointer()), word(1), "monotonic")


@numba.njit(nogil=True, cache=True)
def take_next(taken: Any) -> Any:
    """The first number that no thread has taken: it is taken now. taken: int64 [1], 0 at first."""
    return _fetch_and_add(np.int64(taken.ctypes.data))


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
def _place_row(work: Any, table: Any, views: Any, normalized: Any, row: Any, source: Any) -> None:
    """Row `row` of a picture, at address `source`, to each of its crops that has it; table: address of their places."""
    places = numba.carray(pointer(table), (views, COLUMNS), np.int64)  # an array would cost its reference count a row
    for view in range(views):
        in_crop, pixels = row - places[view, Y], source + places[view, X] * 3
        if in_crop < 0 or in_crop >= CROP:
            continue
        if normalized:
            if places[view, MIRROR]:
                _reverse_row(work + _SCRATCH, pixels)
                pixels = work + _SCRATCH
            target, mean = places[view, OUT] + in_crop * ROW * 4, places[view, MEAN] + in_crop * _PICTURE_ROW * 4
            _normalize_row(target, pixels, mean, work + _SCALES, work + _OFFSETS + view * ROW * 4)
        elif places[view, MIRROR]:
            _reverse_row(places[view, OUT] + in_crop * ROW, pixels)
        else:
            copied = numba.carray(pointer(places[view, OUT] + in_crop * ROW), ROW, np.uint8)
            original = numba.carray(pointer(pixels), ROW, np.uint8)
            for byte in range(ROW):
                copied[byte] = original[byte]


@numba.njit(nogil=True, cache=True)
def _place_jpeg(codec: Any, work: Any, table: Any, address: Any, size: Any, views: Any, normalized: Any) -> int:
    """Decode one JPEG, row by row, into its crops; what became of it (`libjpeg.DECODED` …)."""
    y = numba.carray(pointer(table), (views, COLUMNS), np.int64)[:, Y]
    row, end = y.min(), y.max() + CROP
    status = libjpeg.open_picture(codec, work, address, size, row)
    while status == DECODED and row < end:
        count = libjpeg.read_rows(codec, work, end - row)
        if count <= 0:
            status = UNDECODABLE
        for number in range(count):
            _place_row(work, table, views, normalized, row + number, work + libjpeg.ROWS_AT + number * _PICTURE_ROW)
        row += count
    return libjpeg.close_picture(codec, work, status, row)


@numba.njit(nogil=True, cache=True)
def place_pictures(
    codec: Any, addresses: Any, sizes: Any, crops: Any, taken: Any, status: Any, width: Any = IMAGE
) -> None:
    """Place the pictures that no other thread has taken.

    codec: `find_codec()`, and JPEGs of `sizes` bytes lie at `addresses`; or NO_CODEC, and `width`×`width` RGB pixels.
    taken: int64 [1], 0 at first; status: int64 [n], what became of each picture (left as it is where there are pixels).
    """
    memory = np.empty(_BYTES, np.uint8)
    work = np.int64(memory.ctypes.data + 63) // 64 * 64
    views, normalized = crops.views, crops.normalized
    scales = numba.carray(pointer(work + _SCALES), (CROP, 3), np.float32)
    offsets = numba.carray(pointer(work + _OFFSETS), (views, CROP, 3), np.float32)
    scales[:] = crops.scale
    picture = take_next(taken)
    while picture < len(addresses):
        if normalized:
            for view in range(views):
                offsets[view] = crops.offset[picture * views + view]
        table = np.int64(crops.places.ctypes.data) + picture * views * COLUMNS * 8
        if len(codec):
            status[picture] = _place_jpeg(codec, work, table, addresses[picture], sizes[picture], views, normalized)
        else:
            for row in range(width):
                _place_row(work, table, views, normalized, row, addresses[picture] + row * width * 3)
        picture = take_next(taken)
    memory[0] = 0  # compiled code frees an array after its last use by name, and its address is no such use


def place_pixels(addresses: NDArray[np.int64], width: int, crops: Crops, first: int = 0) -> None:
    """Place pictures, from `first` on, that are pixels already, `width`×`width` RGB at an address each."""
    place_pictures(NO_CODEC, addresses, NO_CODEC, crops, np.full(1, first), NO_CODEC, width)


@functools.cache
def find_codec() -> NDArray[np.int64] | None:
    """`libjpeg.library()`; None, and a line in the log, where there is none or its pixels are not simplejpeg's."""
    try:
        codec = libjpeg.library()
        _compare_with_simplejpeg(codec)
    except (ImportError, LookupError, OSError, AttributeError) as error:
        logger.warning("JPEGs are decoded by simplejpeg, more slowly: no libjpeg-turbo of Pillow's to use (%r)", error)
        return None
    return codec


def _compare_with_simplejpeg(codec: NDArray[np.int64]) -> None:
    """Raises LookupError for a library that decodes other pixels."""
    picture = np.random.default_rng(0).integers(0, 256, (IMAGE, IMAGE, 3), np.uint8)
    jpeg = np.frombuffer(simplejpeg.encode_jpeg(picture, colorsubsampling="420"), np.uint8)
    crop, status = np.empty((CROP, CROP, 3), np.uint8), np.full(1, UNDECODABLE)
    places, nothing = np.array([[CENTER, CENTER, 0, 0, crop.ctypes.data]]), np.zeros((1, 3), np.float32)
    center = Crops(views=1, places=places, scale=nothing[0], offset=nothing, normalized=False)
    address, size, taken = np.array([jpeg.ctypes.data]), np.array([jpeg.size]), np.zeros(1, np.int64)
    place_pictures(codec, address, size, center, taken, status)
    expected = simplejpeg.decode_jpeg(jpeg.tobytes())[CENTER : CENTER + CROP, CENTER : CENTER + CROP]
    if status[0] != DECODED or not np.array_equal(crop, expected):
        raise LookupError("it decodes other pixels than simplejpeg")
