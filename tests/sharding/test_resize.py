"""Resizing against exact fractions and Pillow's own whole-picture way; what goes in byte for byte."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from sharding import RejectedImage, prepare_image
from sharding.pictures import central_square, decode_stored

MakeFile = Callable[..., bytes]


def area_weights(old: int, shorter: int) -> np.ndarray:
    """float64 [256, old]: the share of each kept output pixel's interval that each source pixel covers."""
    new = 256 * old // shorter
    weights = np.zeros((256, old))
    for i in range(256):
        at = i + (new - 256) // 2
        begin, end = Fraction(old * at, new), Fraction(old * (at + 1), new)
        for j in range(int(begin), min(old, int(end) + 1)):
            weights[i, j] = max(Fraction(0), min(end, Fraction(j + 1)) - max(begin, Fraction(j))) / (end - begin)
    return weights


@settings(max_examples=12, deadline=None)
@given(height=st.integers(257, 700), width=st.integers(257, 700), seed=st.integers(0, 99))
def test_area_is_the_average_over_each_output_pixel(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    down, across = (area_weights(old, min(height, width)) for old in (height, width))
    expected = np.einsum("yj,jkc,xk->yxc", down, pixels.astype(np.float64), across, optimize=True)
    result = central_square(pixels)
    assert result.shape == (256, 256, 3) and result.dtype == np.uint8
    assert np.abs(result - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(("height", "width"), [(512, 512), (512, 768), (375, 500), (500, 333), (100, 37)])
def test_lanczos_is_pillows_of_the_whole_picture(height: int, width: int) -> None:
    pixels = np.random.default_rng(height).integers(90, 160, size=(height, width, 3), dtype=np.uint8)  # nothing clips
    size = (256, int(256 * height / width)) if width < height else (int(256 * width / height), 256)  # as the seed
    whole = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    left, top = (whole.width - 256) // 2, (whole.height - 256) // 2
    expected = np.asarray(whole.crop((left, top, left + 256, top + 256))).astype(int)
    assert np.abs(central_square(pixels, "lanczos") - expected).max() <= 1
    assert np.abs(central_square(pixels, "area") - expected).max() > 2  # noise tells the two apart


def test_small_pictures_grow_bicubically() -> None:
    small = np.random.default_rng(2).integers(90, 160, size=(64, 128, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(small).resize((512, 256), Image.Resampling.BICUBIC))
    assert np.abs(central_square(small).astype(int) - whole[:, 128:384]).max() <= 1


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400))
def test_any_size_gives_256_by_256_of_the_same_color(height: int, width: int) -> None:
    pixels = np.broadcast_to(np.array([10, 130, 250], np.uint8), (height, width, 3))
    for resample in ("area", "lanczos"):
        assert (central_square(pixels, resample) == [10, 130, 250]).all()


KINDS = {
    "1": "PNG", "L": "JPEG", "LA": "PNG", "P": "GIF", "RGB": "WEBP", "RGBA": "PNG", "CMYK": "TIFF", "YCbCr": "JPEG",
    "I;16": "PNG", "LAB": "TIFF",
}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(list(KINDS)),
    height=st.integers(1, 330),
    width=st.integers(1, 330),
    color=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_every_mode_and_size_keeps_its_color(mode: str, height: int, width: int, color: tuple[int, int, int]) -> None:
    """One color in a file of every mode; expected is what Pillow makes of it, 16-bit gray scaled by hand."""
    plain = Image.new("RGB", (width, height), color)
    if mode == "I;16":
        image = Image.fromarray(np.full((height, width), color[0] * 257, np.uint16))
        expected = np.full(3, color[0])
    else:
        if mode == "P":
            image = plain.quantize(4)
        elif mode == "LAB":
            image = Image.merge("LAB", [Image.new("L", plain.size, part) for part in color])
        else:
            image = plain.convert(mode, dither=Image.Dither.NONE)
        expected = np.asarray(image.convert("RGB"))[0, 0]
    file = io.BytesIO()
    image.save(file, KINDS[mode], **({"quality": 100} if KINDS[mode] in ("JPEG", "WEBP") else {}))
    pixels = decode_stored(prepare_image(file.getvalue(), encoding="raw"), "raw")
    assert np.abs(pixels.astype(int) - expected).max() <= 12  # JPEG and WebP lose that much of a saturated color


@pytest.mark.parametrize(("height", "width"), [(256, 259), (300, 256), (256, 256)])
def test_a_shorter_side_of_256_is_only_cropped(height: int, width: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    top, left = (height - 256) // 2, (width - 256) // 2
    for resample in ("area", "lanczos"):
        assert (central_square(pixels, resample) == pixels[top : top + 256, left : left + 256]).all()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    ("how", "passes"),
    [
        ({}, True),  # baseline, 4:2:0
        ({"quality": 30}, True),  # whatever its quality
        ({"subsampling": 0}, True),  # and chroma
        ({"optimize": True}, True),
        ({"exif": exif(1)}, True),  # EXIF that does not rotate
        ({"exif": exif(6)}, False),
        ({"exif": b"Exif\0\0MM\0*rubbish"}, False),  # unreadable: it may ask for a rotation
        ({"icc_profile": ICC}, False),
        ({"progressive": True}, False),
        ({"keep_rgb": True}, False),  # RGB without the YCbCr transform: not every decoder knows it
    ],
)
def test_a_finished_jpeg_goes_in_byte_for_byte(
    how: dict[str, object], passes: bool, scene: np.ndarray, as_file: MakeFile
) -> None:
    data = as_file(np.ascontiguousarray(scene[:256, :256]), **how)
    stored = prepare_image(data)
    assert (stored == data) is passes
    shown = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")).astype(int)
    assert np.abs(shown - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).mean() < 2


def test_what_is_not_quite_finished_is_made_anew(scene: np.ndarray, as_file: MakeFile) -> None:
    square = np.ascontiguousarray(scene[:256, :256])
    for data in (as_file(scene[:257, :256]), as_file(square, "PNG"), as_file(Image.fromarray(square).convert("L"))):
        assert prepare_image(data) != data
    with pytest.raises(RejectedImage):
        prepare_image(as_file(square)[:-3000])


def test_what_is_written_is_a_baseline_jpeg_of_that_quality_in_420(scene: np.ndarray, as_file: MakeFile) -> None:
    stored = prepare_image(as_file(scene, "PNG"), quality=90)
    image = Image.open(io.BytesIO(stored))
    expected = Image.open(io.BytesIO(as_file(central_square(scene), quality=90, subsampling=2)))
    assert image.size == (256, 256) and image.mode == "RGB" and "progressive" not in image.info
    assert image.quantization == expected.quantization
    assert simplejpeg.decode_jpeg_header(stored)[3] == "420"
    assert np.abs(np.asarray(image).astype(int) - central_square(scene)).mean() < 2
    assert len(prepare_image(as_file(scene, "PNG"))) > len(stored)  # 95 is the default


def test_raw_is_an_npy_of_the_very_pixels(scene: np.ndarray, as_file: MakeFile) -> None:
    stored = prepare_image(as_file(scene, "PNG"), encoding="raw")
    assert (np.load(io.BytesIO(stored)) == central_square(scene)).all()
    assert (decode_stored(stored, "raw") == central_square(scene)).all()


def test_exif_rotation_is_ignored(scene: np.ndarray, as_file: MakeFile) -> None:
    assert prepare_image(as_file(scene, exif=exif(8))) == prepare_image(as_file(scene))


@pytest.mark.parametrize(("option", "value"), [("resample", "nearest"), ("encoding", "png")])
def test_an_unknown_option_is_an_error(option: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{option}='{value}': must be one of"):
        prepare_image(b"", **{option: value})


def test_real_photographs_are_framed_as_the_published_256s(imagenet2010: Path, photos: Path) -> None:
    """The seed's 256×256 JPEGs of the same photographs: with Lanczos, ours differ by what their quality 75 loses."""
    names = sorted(path.name for path in photos.iterdir())[:40]
    assert len(names) == 40
    errors = {shift: np.zeros(40) for shift in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))}
    for place, name in enumerate(names):
        theirs = np.asarray(Image.open(imagenet2010 / "reference-256" / name)).astype(int)
        ours = decode_stored(prepare_image((photos / name).read_bytes(), resample="lanczos"), "jpeg")
        for shift, error in errors.items():
            error[place] = np.abs(np.roll(ours, shift, (0, 1)) - theirs)[2:-2, 2:-2].mean()
    assert np.median(errors[0, 0]) < 5
    assert all((errors[0, 0] < errors[shift]).all() for shift in errors if shift != (0, 0))
