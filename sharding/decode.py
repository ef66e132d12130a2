"""Any picture's bytes → RGB pixels. JPEG goes through simplejpeg (libjpeg-turbo), the rest through Pillow.

EXIF orientation and ICC profiles are ignored, as in every ImageNet baseline; transparent pictures are laid on white;
of an animation, the first frame counts. Whatever Pillow cannot read whole is a `RejectedImage`.
"""

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from sharding.record import RejectedImage

MAX_PIXELS = 89_478_485
"""Larger pictures are rejected as decompression bombs (Pillow's own limit; ImageNet's largest has about 60 million)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What a picture may be, whatever its name says: no format whose decoder starts another program."""

_ORIENTATION = 0x0112
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


@dataclass(frozen=True, kw_only=True)
class JpegHeader:
    """What stands before a JPEG's first scan. `frame` is the SOF marker (0xC0: baseline), `rotated` EXIF's word."""

    frame: int
    precision_bits: int
    height: int
    width: int
    components: int
    rotated: bool = False
    icc_profile: bool = False
    adobe_transform: int | None = None


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Read a JPEG's markers up to the start of frame and on to the first scan; None if `data` is no JPEG."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    offset, frame = 2, None
    options: dict[str, Any] = {}
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        length = struct.unpack_from(">H", data, offset + 2)[0]
        segment = data[offset + 4 : offset + 2 + length]
        if marker == 0xDA:
            break
        if marker in _START_OF_FRAME and len(segment) >= 6:
            frame = (marker, *struct.unpack_from(">BHHB", segment))
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            options["rotated"] = _is_rotated(segment[6:])
        elif marker == 0xE2 and segment.startswith(b"ICC_PROFILE\0"):
            options["icc_profile"] = True
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            options["adobe_transform"] = segment[11]
        offset += 2 + length
    if frame is None:
        return None
    marker, precision_bits, height, width, components = frame
    return JpegHeader(
        frame=marker, precision_bits=precision_bits, height=height, width=width, components=components, **options
    )


def _is_rotated(exif: bytes) -> bool:
    """Whether EXIF's first directory asks for a rotation. Unreadable EXIF counts as one: no shard shall hold it."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "=")
    try:
        (directory,) = struct.unpack_from(f"{order}4xI", exif)
        (count,) = struct.unpack_from(f"{order}H", exif, directory)
        for offset in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, value = struct.unpack_from(f"{order}H6xH", exif, offset)
            if tag == _ORIENTATION:
                return bool(value != 1)
    except struct.error:
        return True
    return False


def decode(data: bytes) -> np.ndarray:
    """Decode one picture of any kind.

    Returns uint8 [height, width, 3], RGB 0..255.
    Raises RejectedImage for what is empty, no picture, truncated or over MAX_PIXELS.
    """
    if not data:
        raise RejectedImage("empty file")
    header = jpeg_header(data)
    if header is not None:
        _check_size(header.width, header.height)
        if header.components in (1, 3) and header.precision_bits == 8:
            try:
                return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
            except ValueError as error:
                if "premature end" in str(error).lower():  # of the file, or (which Pillow passes over) of the scan
                    raise RejectedImage(f"does not decode: {error}") from None
                return _decode_by_pillow(data)  # stricter than need be: harmless rubbish between segments, say
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
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
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
