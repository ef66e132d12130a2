"""Every odd kind of picture, against DALI's decoder, or against pixels known beforehand."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from nvidia.dali import fn, pipeline_def, types
from PIL import Image

from sharding import RejectedImage
from sharding.pictures import decode

MakeFile = Callable[..., bytes]


def by_dali(data: bytes) -> np.ndarray:
    """RGB pixels by DALI's CPU decoder, orientation ignored."""

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph() -> object:
        encoded = fn.external_source(lambda: [np.frombuffer(data, np.uint8)], batch=True)
        return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)

    pipeline = graph()
    pipeline.build()
    return pipeline.run()[0].as_array()[0]


def ycck(scene: np.ndarray) -> bytes:
    """An Adobe-inverted YCCK JPEG of the scene, by libjpeg-turbo (inverted ink: C is red, K is white)."""
    inverted = np.dstack([scene, np.full_like(scene[..., 0], 255)])
    return simplejpeg.encode_jpeg(np.ascontiguousarray(inverted), colorspace="CMYK", quality=95)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


KINDS: dict[str, Callable[[np.ndarray, MakeFile], bytes]] = {
    "baseline": lambda scene, file: file(scene, quality=95),
    "chroma 4:4:4": lambda scene, file: file(scene, quality=95, subsampling=0),
    "progressive": lambda scene, file: file(scene, quality=95, progressive=True),
    "stored as RGB": lambda scene, file: file(scene, quality=95, keep_rgb=True),
    "rotated by EXIF": lambda scene, file: file(scene, quality=95, exif=exif(6)),
    "CMYK": lambda scene, file: file(Image.fromarray(scene).convert("CMYK"), quality=95),
    "YCCK": lambda scene, file: ycck(scene),
    "PNG": lambda scene, file: file(scene, "PNG"),
    "lossless WebP": lambda scene, file: file(scene, "WEBP", lossless=True),
    "WebP": lambda scene, file: file(scene, "WEBP", quality=95),
    "BMP": lambda scene, file: file(scene, "BMP"),
    "TIFF": lambda scene, file: file(scene, "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_as_dali_decodes_it(kind: str, scene: np.ndarray, as_file: MakeFile) -> None:
    data = KINDS[kind](scene, as_file)
    pixels = decode(data)
    assert pixels.dtype == np.uint8 and pixels.shape == (300, 340, 3)
    assert np.abs(pixels.astype(int) - by_dali(data)).max() <= 1
    assert np.abs(pixels.astype(int) - scene).mean() < 3  # and it is the scene, not its negative


def test_the_odd_jpegs_are_what_they_claim(scene: np.ndarray, as_file: MakeFile) -> None:
    spaces = {kind: simplejpeg.decode_jpeg_header(KINDS[kind](scene, as_file))[2] for kind in list(KINDS)[:7]}
    assert (spaces["CMYK"], spaces["YCCK"], spaces["stored as RGB"]) == ("CMYK", "YCCK", "RGB")
    frames = {kind: KINDS[kind](scene, as_file).find(bytes((0xFF, 0xC2))) > 0 for kind in ("baseline", "progressive")}
    assert frames == {"baseline": False, "progressive": True}


def test_gray_comes_out_three_times(scene: np.ndarray, as_file: MakeFile) -> None:
    gray = Image.fromarray(scene).convert("L")
    pixels = decode(as_file(gray, quality=95))
    assert np.abs(pixels.astype(int) - by_dali(as_file(gray, quality=95))).max() == 0
    assert np.abs(pixels.astype(int) - np.asarray(gray)[..., None]).max() < 12


def test_sixteen_bits_are_scaled_not_clipped(as_png: MakeFile) -> None:
    gray = (np.arange(64 * 80).reshape(64, 80) * 12).astype(np.uint16)
    expected = np.rint(gray / 257).astype(int)
    assert (decode(as_png(gray)) == expected[..., None]).all()
    color = np.dstack([gray, gray[::-1], gray // 2])
    assert np.abs(decode(as_png(color)).astype(int) - color / 257).max() < 1


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_is_laid_on_white(channels: int, as_png: MakeFile) -> None:
    random = np.random.default_rng(channels)
    pixels = random.integers(0, 256, size=(40, 50, channels), dtype=np.uint8)
    pixels[:20, :, -1] = 255
    pixels[30:, :, -1] = 0
    share = pixels[..., -1:] / 255
    expected = np.broadcast_to(pixels[..., :-1] * share + 255 * (1 - share), (40, 50, 3))
    result = decode(as_png(pixels))
    assert np.abs(result - expected).max() <= 1.01
    assert (result[:20] == pixels[:20, :, :-1]).all() and (result[30:] == 255).all()


def test_palettes_with_and_without_a_transparent_entry(as_png: MakeFile) -> None:
    random = np.random.default_rng(3)
    palette = random.integers(0, 255, size=(16, 3), dtype=np.uint8)
    entries = random.integers(0, 16, size=(33, 47), dtype=np.uint8)
    assert (decode(as_png(entries, palette)) == palette[entries]).all()
    palette_on_white = palette.copy()
    palette_on_white[2] = 255
    result = decode(as_png(entries, palette, transparent=b"\xff\xff\x00"))
    assert (result == palette_on_white[entries]).all()


def test_the_first_frame_of_a_gif(as_file: MakeFile) -> None:
    frames = [Image.new("RGB", (30, 20), color) for color in ("red", "blue")]
    assert (decode(as_file(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 2)])
def test_tiny_and_extreme_shapes(size: tuple[int, int], as_png: MakeFile) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    assert (decode(as_png(pixels)) == pixels).all()


def with_frame_size(jpeg: bytes, height: int, width: int) -> bytes:
    """The JPEG with other numbers in its frame header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def bad_files(scene: np.ndarray, file: MakeFile, png: MakeFile) -> dict[str, tuple[bytes, str]]:
    jpeg = file(scene, quality=95)
    smooth = file(scene, quality=95, progressive=True)
    floats = Image.fromarray(np.zeros((4, 4), np.float32))
    return {
        "empty": (b"", "empty file"),
        "text": (b"<html>404 Not Found</html>", "not a picture"),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], "does not decode"),
        "half a JPEG with an end": (jpeg[: len(jpeg) // 2] + b"\xff\xd9", "does not decode: .*premature end of data"),
        "half a progressive JPEG with an end": (smooth[: len(smooth) // 2] + b"\xff\xd9", "premature end of data"),
        "JPEG header alone": (jpeg[:200], "not a picture|does not decode"),
        "truncated PNG": (png(scene)[:-4000], "does not decode"),
        "CMYK cut short": (file(Image.fromarray(scene).convert("CMYK"))[:5000], "does not decode"),
        "JPEG bomb": (with_frame_size(jpeg, 65000, 65000), "65000x65000 is over the limit of 89478485 pixels"),
        "PNG bomb": (png(np.zeros((9500, 9500), np.uint8)), "9500x9500 is over the limit"),
        "greater PNG bomb": (png(np.zeros((1, 1), np.uint8))[:16] + struct.pack(">II", 10**6, 10**6) + b"\x08", "."),
        "floats": (file(floats, "TIFF"), "no defined range"),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not a picture"),
    }


def test_what_cannot_be_packed_is_rejected_with_its_reason(
    scene: np.ndarray, as_file: MakeFile, as_png: MakeFile
) -> None:
    cases = bad_files(scene, as_file, as_png)
    assert len(cases) == 13
    for name, (data, reason) in cases.items():
        with pytest.raises(RejectedImage, match=reason):
            decode(data)
            pytest.fail(f"{name} was decoded")


def test_harmless_rubbish_after_the_picture_costs_nothing(scene: np.ndarray, as_file: MakeFile) -> None:
    data = as_file(scene, quality=95)
    assert (decode(data + b"\0\0rubbish") == decode(data)).all()
    with pytest.raises(ValueError, match="extraneous bytes before marker 0xd9"):
        simplejpeg.decode_jpeg(data[:-2] + b"\0" * 6 + data[-2:], strict=True)
    assert (decode(data[:-2] + b"\0" * 6 + data[-2:]) == decode(data)).all()
    broken_exif = as_file(scene, quality=95, exif=b"Exif\0\0MM\0*rubbish")
    assert (decode(broken_exif) == np.asarray(Image.open(io.BytesIO(data)))).all()
