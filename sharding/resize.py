"""One source picture's bytes → the 256×256 RGB picture that a shard stores (JPEG, or `.npy` bytes for raw)."""

import io
from typing import Literal, get_args

import numba
import numpy as np
import simplejpeg
from PIL import Image

from sharding.decode import JpegHeader, decode, jpeg_header
from sharding.errors import RejectedImage
from sharding.shard import Encoding

SIDE = 256
"""Shorter side to 256, then the central 256×256 (Krizhevsky 2012 §2)."""

Resample = Literal["area", "lanczos"]


def prepare_image(data: bytes, *, quality: int = 95, resample: Resample = "area", encoding: Encoding = "jpeg") -> bytes:
    """Do to one picture what packing does: shorter side to 256, central 256×256, RGB, encoded.

    `data` is a whole file of any format. Returns a baseline JPEG with 4:2:0 chroma, or for `encoding="raw"` a `.npy`
    file of uint8 [256, 256, 3]. A 256×256 RGB baseline JPEG without EXIF rotation or ICC profile comes back byte for
    byte. Raises RejectedImage with the reason if the picture cannot be packed, ValueError for an unknown option.
    """
    for name, value, known in (("resample", resample, Resample), ("encoding", encoding, Encoding)):
        if value not in get_args(known):
            raise ValueError(f"{name}={value!r}: must be one of {', '.join(get_args(known))}")
    if encoding == "jpeg" and is_stored_form(data):
        return bytes(data)
    pixels = central_square(decode(data), resample)
    if encoding == "raw":
        file = io.BytesIO()
        np.save(file, pixels)
        return file.getvalue()
    return simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420")


def decode_stored(data: bytes, encoding: Encoding) -> np.ndarray:
    """Decode what a shard stores: uint8 [256, 256, 3] RGB. Raises RejectedImage if it is anything else."""
    try:
        if encoding == "raw":
            pixels = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except (ValueError, EOFError, OSError) as error:
        raise RejectedImage(f"does not decode: {error}") from None
    if pixels.shape != (SIDE, SIDE, 3) or pixels.dtype != np.uint8:
        raise RejectedImage(f"decodes to {pixels.dtype} {list(pixels.shape)}, expected uint8 [{SIDE}, {SIDE}, 3]")
    return pixels


def is_stored_form(data: bytes) -> bool:
    """Whether `data` can go into a shard as it is: a sound 256×256 YCbCr baseline JPEG, unrotated, without profile."""
    header = jpeg_header(data)
    if header is None or not _is_plain(header):
        return False
    try:
        decode_stored(data, "jpeg")
    except RejectedImage:
        return False
    return True


def _is_plain(header: JpegHeader) -> bool:
    form = (header.frame, header.precision_bits, header.height, header.width, header.components)
    upright = not header.rotated and not header.icc_profile
    return form == (0xC0, 8, SIDE, SIDE, 3) and upright and header.adobe_transform in (None, 1)


def central_square(pixels: np.ndarray, resample: Resample = "area") -> np.ndarray:
    """Scale the shorter side to 256 and keep the central 256×256.

    `pixels` and the result are uint8 [height, width, 3]. The square of the shorter side is taken at whole pixels
    (left and top offsets rounded down). `area` averages exactly over each output pixel's area, and is bicubic where the
    picture must grow (as cuda-convnet2's data maker); `lanczos` is Pillow's (as the seed).
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    if side == SIDE:
        return np.ascontiguousarray(pixels[top : top + side, left : left + side])
    if resample == "area" and side > SIDE:
        rows = np.ascontiguousarray(pixels).reshape(height, width * 3)
        return _shrink(rows, top, left, side).reshape(SIDE, SIDE, 3)
    kernel = Image.Resampling.LANCZOS if resample == "lanczos" else Image.Resampling.BICUBIC
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), kernel, box=box))


@numba.njit(cache=True, nogil=True)
def _shrink(rows: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """Average a square of `rows` (uint8 [height, width·3]) over 256×256 equal areas → uint8 [256, 256·3].

    In units of 1/256 source pixel, source pixel j covers [256j, 256j+256) and output pixel i covers
    [side·i, side·i+side): the overlaps are integers, so the sums are exact and the same on every machine.
    """
    result = np.empty((SIDE, SIDE * 3), np.uint8)
    column = np.empty(side * 3, np.uint32)
    for y in range(SIDE):
        begin, end = side * y, side * (y + 1)
        first, last = begin // SIDE, (end - 1) // SIDE
        for j in range(first, last + 1):
            weight = np.uint32(min(end, SIDE * (j + 1)) - max(begin, SIDE * j))
            row = rows[top + j, left * 3 : (left + side) * 3]
            if j == first:
                for k in range(side * 3):
                    column[k] = weight * np.uint32(row[k])
            else:
                for k in range(side * 3):
                    column[k] += weight * np.uint32(row[k])
        _average_row(column, side, result[y])
    return result


@numba.njit(cache=True, nogil=True)
def _average_row(column: np.ndarray, side: int, result: np.ndarray) -> None:
    """Sum weighted columns (uint32 [side·3]) over the areas of one output row, and divide: → uint8 [256·3]."""
    scale = 1.0 / (side * side)
    for x in range(SIDE):
        begin, end = side * x, side * (x + 1)
        first, last = begin // SIDE, (end - 1) // SIDE
        weight = np.uint64(min(end, SIDE * (first + 1)) - begin)
        red, green, blue = weight * column[3 * first], weight * column[3 * first + 1], weight * column[3 * first + 2]
        for j in range(first + 1, last + 1):
            weight = np.uint64(min(end, SIDE * (j + 1)) - SIDE * j)
            red += weight * column[3 * j]
            green += weight * column[3 * j + 1]
            blue += weight * column[3 * j + 2]
        result[3 * x] = np.uint8(red * scale + 0.5)
        result[3 * x + 1] = np.uint8(green * scale + 0.5)
        result[3 * x + 2] = np.uint8(blue * scale + 0.5)
