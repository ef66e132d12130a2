"""Pictures made without Pillow's help where a test needs to know their pixels."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """uint8 [300, 340, 3]: slopes, a block with hard edges, different in every channel and not symmetric."""
    y, x = np.mgrid[0:300, 0:340]
    pixels = np.stack([x * 255 // 339, y * 255 // 299, (x + 2 * y) * 255 // 937], -1).astype(np.uint8)
    pixels[60:150, 100:220] = (200, 30, 60)
    return pixels


@pytest.fixture(scope="session")
def as_file() -> Callable[..., bytes]:
    """Pixels (uint8 [h, w, 3], or an Image) → the bytes of a file, by Pillow."""

    def make(pixels: np.ndarray | Image.Image, kind: str = "JPEG", **how: object) -> bytes:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        file = io.BytesIO()
        image.save(file, kind, **how)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def as_png() -> Callable[..., bytes]:
    """Pixels (uint8 or uint16 [h, w(, channels)]) → a PNG, written by hand with zlib."""
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    def make(pixels: np.ndarray, palette: np.ndarray | None = None, transparent: bytes | None = None) -> bytes:
        height, width = pixels.shape[:2]
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        kind = 3 if palette is not None else color_type[channels]
        rows = pixels.astype(f">u{pixels.itemsize}").reshape(height, -1)
        raw = b"".join(b"\0" + row.tobytes() for row in rows)
        head = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, kind, 0, 0, 0)
        parts = [chunk(b"IHDR", head)]
        if palette is not None:
            parts.append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
        if transparent is not None:
            parts.append(chunk(b"tRNS", transparent))
        parts += [chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    return make


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory, as_file: Callable[..., bytes]) -> Path:
    """`train/<wnid>/` (3 classes, 24 pictures) and `val/<wnid>/` (9 pictures), small sizes, JPEG quality 90."""
    root = tmp_path_factory.mktemp("class-folders")
    random = np.random.default_rng(5)
    for split, each in (("train", 8), ("val", 3)):
        for label, wnid in enumerate(("n01440764", "n01443537", "n02084071")):
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for number in range(each):
                height, width = random.integers(257, 300, size=2)
                color = np.array([80 * label, 255 - 80 * label, 25 * number])
                noise = random.integers(-20, 21, size=(height // 4 + 1, width // 4 + 1, 3))
                pixels = np.kron(np.clip(color + noise, 0, 255), np.ones((4, 4, 1)))[:height, :width]
                (folder / f"{wnid}_{number}.JPEG").write_bytes(as_file(pixels.astype(np.uint8), quality=90))
    return root
