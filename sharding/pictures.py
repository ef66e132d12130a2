"""One source picture's bytes → the 256×256 RGB picture that a shard stores (JPEG, or `.npy` bytes for raw).

JPEG is decoded by simplejpeg (libjpeg-turbo), the rest by Pillow. EXIF orientation and ICC profiles are ignored, as in
every ImageNet baseline; transparent pictures are laid on white; of an animation, the first frame counts. Whatever
Pillow cannot read whole is a `RejectedImage`.
"""

import contextlib
import io
import struct
import warnings
from typing import get_args

import numba
import numpy as np
import simplejpeg
from PIL import Image

from sharding.record import Encoding, RejectedImage, Resample

SIDE = 256
"""Shorter side to 256, then the central 256×256 (Krizhevsky 2012 §2)."""

MAX_PIXELS = 89_478_485
"""Larger pictures are rejected as decompression bombs (Pillow's own limit; ImageNet's largest has about 60 million)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What a picture may be, whatever its name says: no format whose decoder starts another program."""

_ORIENTATION = 0x0112
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)
"""What decoders raise for a damaged picture, by where the damage is."""


def prepare_image(data: bytes, *, quality: int = 95, resample: Resample = "area", encoding: Encoding = "jpeg") -> bytes:
    """Do to one picture what packing does: shorter side to 256, central 256×256, RGB, encoded.

    `data` is a whole file of any format. Returns a baseline JPEG with 4:2:0 chroma, or for `encoding="raw"` a `.npy`
    file of uint8 [256, 256, 3]. A 256×256 RGB baseline JPEG without EXIF rotation or ICC profile comes back byte for
    byte. Raises RejectedImage with the reason if the picture cannot be packed, ValueError for an unknown option.
    """
    for name, value, known in (("resample", resample, Resample), ("encoding", encoding, Encoding)):
        if value not in get_args(known):
            raise ValueError(f"{name}={value!r}: must be one of {', '.join(get_args(known))}")
    if encoding == "jpeg" and _is_plain(data):
        with contextlib.suppress(RejectedImage):  # damaged: Pillow may still read it
            decode_stored(data, encoding)
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
        raw = encoding == "raw"
        pixels = np.load(io.BytesIO(data)) if raw else simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except (ValueError, EOFError, OSError) as error:
        raise RejectedImage(f"does not decode: {error}") from None
    if pixels.shape != (SIDE, SIDE, 3) or pixels.dtype != np.uint8:
        raise RejectedImage(f"decodes to {pixels.dtype} {list(pixels.shape)}, expected uint8 [{SIDE}, {SIDE}, 3]")
    return pixels


def _is_plain(data: bytes) -> bool:
    """Whether `data` claims to be a 256×256 YCbCr baseline JPEG, upright and without a profile."""
    try:
        if simplejpeg.decode_jpeg_header(data)[:3] != (SIDE, SIDE, "YCbCr"):
            return False
        offset = 2
        while data[offset + 1] not in _START_OF_FRAME:  # 0xFF before a marker is a fill byte
            offset += 1 if data[offset + 1] == 0xFF else 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # EXIF that cannot be read whole may ask for a rotation
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                exif, info = image.getexif(), image.info
                upright = "exif" not in info or (len(exif) > 0 and exif.get(_ORIENTATION, 1) == 1)
                plain = upright and "icc_profile" not in info and info.get("adobe_transform", 1) == 1
                return plain and data[offset + 1] == 0xC0
    except (*_DAMAGED, Warning):
        return False


def decode(data: bytes) -> np.ndarray:
    """Decode one picture of any kind to uint8 [height, width, 3], RGB 0..255.

    Raises RejectedImage for what is empty, no picture, truncated or over MAX_PIXELS.
    """
    if not data:
        raise RejectedImage("empty file")
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height)
        if colors in ("Gray", "YCbCr", "RGB"):
            return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError as error:  # no JPEG; or stricter than need be: harmless rubbish between segments, say
        if "premature end" in str(error).lower():  # of the file, or (which Pillow passes over) of the scan
            raise RejectedImage(f"does not decode: {error}") from None
    return _decode_by_pillow(data)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise RejectedImage(f"{width}x{height} is over the limit of {MAX_PIXELS} pixels (a decompression bomb?)")
    if width < 1 or height < 1:
        raise RejectedImage(f"a picture of {width}x{height} pixels")


def _decode_by_pillow(data: bytes) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size)
                return np.asarray(_to_rgb(image))
    except Image.UnidentifiedImageError:
        raise RejectedImage("not a picture in a format that is read here") from None
    except Image.DecompressionBombError as error:
        raise RejectedImage(f"over the limit of {MAX_PIXELS} pixels: {error}") from None
    except _DAMAGED as error:
        raise RejectedImage(f"does not decode: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of a picture of any mode: 16-bit gray is scaled (not clipped), transparency is laid on white."""
    image.load()
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).convert("L").convert("RGB")
    if image.mode in ("I", "F"):
        raise RejectedImage(f"pixels of mode {image.mode} have no defined range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def central_square(pixels: np.ndarray, resample: Resample = "area") -> np.ndarray:
    """Scale the shorter side to 256 (the other is rounded down), keep the central 256×256 (offsets rounded down).

    `pixels` and the result are uint8 [height, width, 3]. `area` averages exactly over each output pixel's area, and is
    bicubic where the picture must grow (as cuda-convnet2's data maker); `lanczos` is Pillow's (as the seed). Only
    what is kept is computed.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    new_height, new_width = SIDE * height // side, SIDE * width // side
    top, left = (new_height - SIDE) // 2, (new_width - SIDE) // 2
    if side == SIDE:
        return np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE])
    if resample == "area" and side > SIDE:
        rows = np.ascontiguousarray(pixels).reshape(height, width * 3)
        down, across = _overlaps(height, new_height, top), _overlaps(width, new_width, left)
        return _shrink(rows, (new_height, new_width), down, across).reshape(SIDE, SIDE, 3)
    kernel = Image.Resampling.LANCZOS if resample == "lanczos" else Image.Resampling.BICUBIC
    x, y = width / new_width, height / new_height
    box = (left * x, top * y, (left + SIDE) * x, (top + SIDE) * y)
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), kernel, box=box))


def _overlaps(old: int, new: int, offset: int) -> np.ndarray:
    """How output pixels offset … offset+255 of an axis scaled from `old` to `new` pixels lie over the source pixels.

    In units of 1/new of a source pixel, source pixel j covers [new·j, new·j+new) and output pixel i covers
    [old·i, old·i+old): the overlaps are integers, so sums over them are exact and the same on every machine.
    Returns int64 [256, 3]: the first source pixel, the last, and the overlap with the first. Those between overlap by
    `new`, the last by what is left of `old`.
    """
    begin = old * (offset + np.arange(SIDE, dtype=np.int64))
    first = begin // new
    return np.stack([first, (begin + old - 1) // new, np.minimum(old, new * (first + 1) - begin)], axis=1)


@numba.njit(cache=True, nogil=True)
def _shrink(rows: np.ndarray, shape: tuple[int, int], down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Average `rows` (uint8 [height, width·3]) over the areas of output pixels → uint8 [256, 256·3].

    `shape` is the (height, width) that the whole picture is scaled to, `down` and `across` the `_overlaps` of the axes.
    Sums stay below 2^53, so float64 holds them exactly.
    """
    height, width = rows.shape[0], rows.shape[1] // 3
    start, stop = 3 * across[0, 0], 3 * (across[-1, 1] + 1)
    summed, column, total = np.empty(stop - start, np.uint32), np.empty(stop - start), np.empty(SIDE * 3)
    result = np.empty((SIDE, SIDE * 3), np.uint8)
    scale = 1.0 / (height * width)
    for y in range(SIDE):
        left, weight = height, down[y, 2]
        summed[:] = 0
        for j in range(down[y, 0], down[y, 1] + 1):
            row, share = rows[j, start:stop], np.uint32(weight)
            for k in range(summed.size):
                summed[k] += share * np.uint32(row[k])
            left -= weight
            weight = min(left, shape[0])
        for k in range(summed.size):
            column[k] = summed[k]
        total[:] = 0.0
        for x in range(SIDE):
            left, weight = width, across[x, 2]
            at = np.uint64(3 * across[x, 0] - start)  # unsigned: signed indices cost a test for wrapping
            for _ in range(across[x, 0], across[x, 1] + 1):
                for channel in range(3):
                    total[3 * x + channel] += weight * column[at + np.uint64(channel)]
                at += np.uint64(3)
                left -= weight
                weight = min(left, shape[1])
        for k in range(total.size):
            result[y, k] = np.uint8(np.int32(total[k] * scale + 0.5))
    return result
