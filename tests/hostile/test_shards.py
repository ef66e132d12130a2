"""Packed splits that were edited, damaged or are not what they seem: (what the user has, what happens)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharding import PackOptions, ShardError, ShardSet, Statistics, pack
from sharding.__main__ import main
from tests.hostile.conftest import class_files, write

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    source = write(folder / "source", class_files("cat", "dog", each=3))
    return pack(PackOptions(source=source, out=folder / "out", split="train", samples_per_shard=4, workers=1))[0]


@pytest.fixture
def split(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "train"))


def edited(split: Path, path: tuple[str | int, ...], value: Any) -> None:
    """Put `value` into manifest.json, where `path` leads."""
    manifest = json.loads((split / "manifest.json").read_text())
    content = manifest
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value
    (split / "manifest.json").write_text(json.dumps(manifest))


MANIFESTS: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("shards", 0, "name"), 5, "shards[0].name is 5, expected text"),
    (
        ("shards", 0, "name"),
        "../train-000000.tar",
        "shards[0].name is '../train-000000.tar', expected a file name that",
    ),
    (("shards", 0, "name"), "", "shards[0].name is '', expected a file name that ends in .tar"),
    (
        ("shards", 1, "name"),
        "train-000000.tar",
        "shards is ['train-000000.tar', 'train-000000.tar'], expected at least",
    ),
    (("shards", 0, "samples"), "4", "shards[0].samples is '4', expected a whole number"),
    (("shards", 0, "samples"), 4.0, "shards[0].samples is 4.0, expected a whole number"),
    (("shards", 0, "samples"), True, "shards[0].samples is True, expected a whole number"),
    (("shards", 0, "samples"), 0, "shards[0].samples is 0, expected 1 or more"),
    (("shards", 0, "samples"), -1, "shards[0].samples is -1, expected 1 or more"),
    (("shards", 0, "bytes"), None, "shards[0].bytes is None, expected a whole number"),
    (("shards", 1, "sha256"), "abc", "shards[1].sha256 is 'abc', expected 64 hexadecimal digits"),
    (("shards", 0, "colour"), "red", "shards[0].colour is 'there', expected no such field"),
    (("shards", 0), {}, "shards[0].name is 'missing', expected a value"),
    (("shards", 0), 7, "shards[0] is 7, expected an object"),
    (("shards",), [], "shards is [], expected at least one, none twice"),
    (("shards",), {}, "shards is {}, expected a list"),
    (("shards",), None, "shards is None, expected a list"),
    (("encoding",), "foo", "encoding is 'foo', expected one of jpeg, raw"),
    (("encoding",), ["jpeg"], "encoding is ['jpeg'], expected one of jpeg, raw"),
    (("samples",), "8", "samples is '8', expected a whole number"),
    (("samples",), 8, "samples is 8, expected 6, which its shards hold"),
    (("classes",), [], "classes is [], expected at least one, no label twice"),
    (("classes", 1, "label"), 0, "classes is [0, 0], expected at least one, no label twice"),
    (("classes", 0, "label"), -1, "classes is -1, expected labels from 0 on"),
    (("classes", 0, "label"), "0", "classes[0].label is '0', expected a whole number"),
    (("classes", 0, "name"), None, "classes[0].name is None, expected text"),
    (("options",), [], "options is [], expected an object"),
    (("rejects",), ["x.jpg"], "rejects[0] is 'x.jpg', expected an object"),
    (("checksums",), {"../x.npz": "0" * 64}, "checksums['../x.npz'] is"),
    (("checksums", "samples.npy"), 5, "checksums['samples.npy'] is 5, expected text"),
    (("format",), 2, "format 2, this program reads 1"),
    (("split",), 3, "split is 3, expected text"),
]


@pytest.mark.parametrize(("path", "value", "message"), MANIFESTS)
def test_a_manifest_edited_by_hand_is_one_line_that_names_file_and_field(
    split: Path, path: tuple[str | int, ...], value: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(split, path, value)
    with pytest.raises(ShardError) as raised:
        ShardSet.open(split)
    assert str(raised.value).startswith(f"{split}/manifest.json: {message}")
    for command in (["show", str(split)], ["verify", str(split), "--workers", "1"]):
        assert main(command) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"5", b'"text"', b"\xff\xfe", b"{", b"[" * 100_000, b"NaN"])
def test_a_manifest_that_is_none_is_one_line(split: Path, text: bytes) -> None:
    (split / "manifest.json").write_bytes(text)
    with pytest.raises(ShardError, match=r"manifest\.json: cannot be read as a manifest \(") as raised:
        ShardSet.open(split)
    assert "\n" not in str(raised.value)


STATISTICS = [
    ("mean_image", np.full((256, 256, 3), np.nan), "mean_image holds 196608 values that are no numbers"),
    ("mean_image", np.zeros((256, 256)), "mean_image is float64 [256, 256], expected float64 [256, 256, 3]"),
    ("mean_image", np.zeros((256, 256, 3), np.float32), "mean_image is float32 [256, 256, 3], expected float64"),
    ("rgb_mean", np.array([1, np.inf, 2]), "rgb_mean holds 1 values that are no numbers"),
    ("rgb_mean", np.array(["a", "b", "c"]), "rgb_mean is <U1 [3], expected float64 [3]"),
    ("eigenvalues", np.array([3.0, 2.0, -1.0]), "eigenvalues are [3.0, 2.0, -1.0], expected none below 0"),
    ("eigenvectors", np.zeros(9), "eigenvectors is float64 [9], expected float64 [3, 3]"),
    ("images", np.array(0), "images is 0, expected 1 or more"),
    ("images", np.array([6]), "images is int64 [1], expected int64 []"),
]


@pytest.mark.parametrize(("name", "value", "message"), STATISTICS)
def test_statistics_that_cannot_be_are_one_line_that_names_the_array(
    split: Path, name: str, value: np.ndarray, message: str
) -> None:
    path = split / "statistics.npz"
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, name: value})
    with pytest.raises(ShardError) as raised:
        Statistics.load(path)
    assert str(raised.value).startswith(f"{path}: {message}") and "pack the training split again" in str(raised.value)
    with pytest.raises(ShardError, match=name):
        _ = ShardSet.open(split).statistics


def test_statistics_without_an_array_or_with_objects_are_one_line(split: Path) -> None:
    path = split / "statistics.npz"
    with np.load(path) as arrays:
        found = dict(arrays)
    np.savez(path, **{name: value for name, value in found.items() if name != "rgb_mean"})
    with pytest.raises(ShardError, match="cannot be read as statistics"):
        Statistics.load(path)
    np.savez(path, **found | {"rgb_mean": np.array([{}, {}, {}])}, allow_pickle=True)
    with pytest.raises(ShardError, match="cannot be read as statistics"):
        Statistics.load(path)


def test_a_training_split_without_statistics_is_not_sound(split: Path) -> None:
    (split / "statistics.npz").unlink()
    command = [sys.executable, "-m", "sharding", "verify", str(split), "--workers", "1"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert checked.returncode == 1
    assert f"{split}/statistics.npz: missing; training needs it, pack the split again" in checked.stderr


@pytest.mark.parametrize("name", ["a\nb", "\n", " \t", "x" * 5000, "$a_{b$", "\u202eback", "\U0001f40d"])
def test_any_name_of_a_class_can_be_shown(split: Path, tmp_path: Path, name: str) -> None:
    edited(split, ("classes", 0, "name"), name)
    assert main(["show", str(split), "--png", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_show_to_a_reader_that_has_gone_says_nothing(packed: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sharding", "show", str(packed), "--png", str(tmp_path / "sheet.png")]
    shown = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert shown.returncode == 141 and shown.stderr == b""


def test_a_folder_in_place_of_a_file_is_one_line(split: Path) -> None:
    for name in ("train-000000.tar", "samples.npy", "manifest.json"):
        other = Path(shutil.copytree(split, split.with_name(f"other-{name}")))
        (other / name).unlink()
        (other / name).mkdir()
        with pytest.raises((ShardError, OSError)) as raised:
            ShardSet.open(other).images([0])
        assert name in str(raised.value) and "\n" not in str(raised.value)
