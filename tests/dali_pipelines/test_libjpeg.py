"""libjpeg-turbo from compiled code against simplejpeg: the same pixels, the same verdict on what is damaged."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from dali_pipelines.crops import Crops, find_codec, place_pictures
from dali_pipelines.libjpeg import DAMAGED, DECODED, OTHER_SIZE, UNDECODABLE, decode_by_simplejpeg

CORNERS = [(0, 0), (0, 32), (32, 0), (32, 32)]

KINDS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 7},
    "coarse": {"quality": 10},
}


def photograph(seed: int = 0, side: int = 256) -> Image.Image:
    """Smooth colors with noise on them, as photographs have."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(small, np.int16) + random.integers(-20, 21, (side, side, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def jpeg_of(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 95, **options})  # type: ignore[arg-type]
    return file.getvalue()


def decoded(jpeg: bytes, first_row: int | None = None) -> tuple[int, np.ndarray]:
    """What became of it, and uint8 [256, 256, 3], put together of crops: all rows, or 224 from `first_row` on."""
    codec, picture = find_codec(), np.zeros((256, 256, 3), np.uint8)
    assert codec is not None, "the Pillow of the lock brings libjpeg-turbo"
    corners = CORNERS if first_row is None else [(first_row, 0), (first_row, 32)]
    crops = np.zeros((len(corners), 224, 224, 3), np.uint8)
    places = np.array([[*corner, 0, 0, crop.ctypes.data] for corner, crop in zip(corners, crops)])
    content, status = np.frombuffer(jpeg, np.uint8), np.full(1, 77)
    nothing = np.zeros((len(corners), 3), np.float32)
    chosen = Crops(views=len(corners), places=places, scale=nothing[0], offset=nothing, normalized=False)
    taken, address, size = np.zeros(1, np.int64), np.array([content.ctypes.data]), np.array([content.size])
    place_pictures(codec, address, size, chosen, taken, status)
    for (y, x), crop in zip(corners, crops):
        picture[y : y + 224, x : x + 224] = crop
    return int(status[0]), picture


def fault_of(jpeg: bytes) -> tuple[int, str]:
    return decode_by_simplejpeg(jpeg, np.zeros((256, 256, 3), np.uint8))


@pytest.mark.parametrize("kind", [*KINDS, "gray"])
def test_rows_from_any_on_are_simplejpegs(kind: str) -> None:
    image = photograph().convert("L") if kind == "gray" else photograph()
    jpeg = jpeg_of(image, **KINDS.get(kind, {}))
    expected = simplejpeg.decode_jpeg(jpeg)
    for first_row in range(33):
        status, pixels = decoded(jpeg, first_row)
        assert status == DECODED
        rows = slice(first_row, first_row + 224)
        np.testing.assert_array_equal(pixels[rows], expected[rows])


def damaged_copies(count: int) -> list[bytes]:
    """Pictures with flipped bits, cut ends, holes and overwritten bytes, half of them in the header."""
    random, sources = np.random.default_rng(8), [jpeg_of(photograph(seed)) for seed in range(4)]
    copies = []
    for number in range(count):
        data = bytearray(sources[number % 4])
        end = 700 if random.random() < 0.5 else len(data)
        first, last = sorted(random.integers(0, end, 2).tolist())
        match number // 4 % 4:
            case 0:
                data[first] ^= 1 << int(random.integers(8))
            case 1:
                del data[first + 1 :]
            case 2:
                del data[first:last]
            case 3:
                data[first : first + 8] = random.integers(0, 256, 8, np.uint8).tobytes()
        copies.append(bytes(data))
    return copies


def test_damage_gets_simplejpegs_verdict_and_pixels_and_nothing_crashes() -> None:
    counted = {DECODED: 0, DAMAGED: 0, UNDECODABLE: 0}
    for jpeg in damaged_copies(2000):
        status, pixels = decoded(jpeg)
        expected = np.zeros_like(pixels)
        verdict, _ = decode_by_simplejpeg(jpeg, expected)
        if status == UNDECODABLE:
            assert verdict in (UNDECODABLE, DAMAGED)  # simplejpeg tells of a warning, not of a fatal error behind it
        else:
            assert status == verdict
        if status in (DECODED, DAMAGED):
            np.testing.assert_array_equal(pixels, expected)
        counted[verdict] = counted.get(verdict, 0) + 1
        assert (status == DECODED) == (verdict == DECODED)
    assert min(counted[DECODED], counted[DAMAGED], counted[UNDECODABLE]) > 100, counted


@pytest.mark.parametrize("first_row", [0, 16, 32])
def test_damage_below_the_crop_is_seen(first_row: int) -> None:
    jpeg = jpeg_of(photograph())
    assert decoded(jpeg[:-300], first_row)[0] == DAMAGED
    assert decoded(jpeg[:-2] + b"rubbish" + jpeg[-2:], first_row)[0] == DAMAGED
    assert fault_of(jpeg[:-300]) == (DAMAGED, "does not decode (Premature end of JPEG file)")


def test_a_picture_without_tables_does_not_borrow_those_of_the_one_before() -> None:
    jpeg = jpeg_of(photograph())
    start = jpeg.index(b"\xff\xdb")
    size = int.from_bytes(jpeg[start + 2 : start + 4], "big")
    assert decoded(jpeg)[0] == DECODED
    without = jpeg[:start] + jpeg[start + 2 + size :]
    if b"\xff\xdb" in without[: without.index(b"\xff\xda")]:  # Pillow writes two tables
        start = without.index(b"\xff\xdb")
        without = without[:start] + without[start + 2 + int.from_bytes(without[start + 2 : start + 4], "big") :]
    assert decoded(without)[0] == UNDECODABLE
    status, fault = fault_of(without)
    assert status == UNDECODABLE and fault.startswith("does not decode (")


def test_another_size_is_told_by_its_size() -> None:
    jpeg = jpeg_of(photograph(side=240))
    assert decoded(jpeg)[0] == OTHER_SIZE
    assert fault_of(jpeg) == (OTHER_SIZE, "decodes to (240, 240, 3), expected (256, 256, 3)")
