"""Stored pictures → pixels and crops."""

from pathlib import Path

import numpy as np
import pytest

from dali_pipelines.augmentation import Augmentation
from evaluation.views import cut, pixels_of
from sharding import ShardError, ShardSet
from sharding.pictures import decode_stored


def test_pixels_are_those_of_the_samples_asked_for(jpeg_shards: Path) -> None:
    with ShardSet.open(jpeg_shards / "val") as held_out:
        pixels = pixels_of(held_out, np.array([5, 2]))
        assert pixels.shape == (2, 256, 256, 3) and pixels.dtype == np.uint8
        for picture, sample in zip(pixels, (5, 2)):
            stored = held_out.images([sample])[0].tobytes()
            np.testing.assert_array_equal(picture, decode_stored(stored, "jpeg"))


def test_a_picture_that_does_not_decode_is_named(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardSet.open(jpeg_shards / "val") as held_out:
        name, key = held_out.locate(3)
        monkeypatch.setattr(held_out, "images", lambda ids: [np.frombuffer(b"no picture", np.uint8)])
        with pytest.raises(ShardError) as raised:
            pixels_of(held_out, np.array([3]))
    message = str(raised.value)
    assert message.startswith(f"{jpeg_shards / 'val' / name}: sample {key} does not decode")
    assert message.endswith(f"python -m sharding verify {jpeg_shards / 'val'}")


def test_crops_are_mirrored_after_cutting() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    augmentation = Augmentation(
        crop_y=np.array([0, 32, 5, 7], np.int32),
        crop_x=np.array([32, 0, 9, 3], np.int32),
        mirror=np.array([False, True, True, False]),
        rgb_offset=np.zeros((4, 3), np.float32),
    )
    crops = cut(pixels, augmentation)
    np.testing.assert_array_equal(crops[0], pixels[0, 0:224, 32:256].transpose(2, 0, 1))
    np.testing.assert_array_equal(crops[1], pixels[0, 32:256, 0:224][:, ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(crops[2], pixels[1, 5:229, 9:233][:, ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(crops[3], pixels[1, 7:231, 3:227].transpose(2, 0, 1))
