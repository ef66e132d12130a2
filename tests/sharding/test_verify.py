"""`verify` finds each kind of damage, and names the shard and the key."""

import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sharding import PackOptions, ShardError, Statistics, pack
from sharding.shard import Entry, index_text, sample_members, tar_end
from sharding.verify import split_faults, verify


@pytest.fixture(scope="module")
def packed(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 samples in 3 shards of the training split, and val beside it."""
    out = tmp_path_factory.mktemp("packed")
    pack(PackOptions(source=class_folders, out=out, workers=1, samples_per_shard=10))
    return out


@pytest.fixture
def train(packed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(packed, tmp_path / "copy") / "train"


def test_a_sound_split_has_no_faults(packed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert verify(packed) == 0
    assert [record.message.split(": ")[1] for record in caplog.records] == ["every sample is as it must be"] * 2
    assert split_faults(packed / "val") == []


def members(tar: Path) -> list[tuple[str, bytes, int]]:
    """Name, content and offset of each member."""
    with tarfile.open(tar) as archive:
        return [(entry.name, archive.extractfile(entry).read(), entry.offset_data) for entry in archive]


def key_of(tar: Path, sample: int) -> str:
    return members(tar)[2 * sample][0].removesuffix(".jpg")


def damage_picture(train: Path) -> list[str]:
    tar = train / "train-000001.tar"
    content = bytearray(tar.read_bytes())
    start = members(tar)[6][2]
    content[start : start + 400] = b"\0" * 400
    tar.write_bytes(content)
    return ["train-000001.tar: .*SHA-256 is not the manifest's", f"train-000001.tar: {key_of(tar, 3)}: does not decode"]


def rewrite(train: Path, change: Callable[[list[tuple[str, bytes, int]]], None]) -> None:
    """Write shard 2 anew with changed samples (key, picture, label), its index and checksum too; no table."""
    tar = train / "train-000002.tar"
    found = members(tar)
    samples = [(found[at][0][:-4], found[at][1], int(found[at + 1][1])) for at in range(0, len(found), 2)]
    change(samples)
    content = b"".join(sample_members(*sample, "jpeg") for sample in samples)
    tar.write_bytes(content + tar_end(len(content)))
    entries = [Entry(key, len(picture), label) for key, picture, label in samples]
    tar.with_suffix(".idx").write_text(index_text(entries, "jpg"))
    manifest = json.loads((train / "manifest.json").read_text())
    (train / "samples.npy").unlink()
    manifest["checksums"] = {}
    manifest["shards"][2] |= {"sha256": hashlib.sha256(tar.read_bytes()).hexdigest(), "bytes": tar.stat().st_size}
    (train / "manifest.json").write_text(json.dumps(manifest))


def wrong_size(train: Path) -> list[str]:
    import simplejpeg

    small = simplejpeg.encode_jpeg(np.zeros((255, 256, 3), np.uint8))
    rewrite(train, lambda samples: samples.__setitem__(1, (samples[1][0], small, samples[1][2])))
    key = key_of(train / "train-000002.tar", 1)
    return [rf"train-000002.tar: {key}: decodes to uint8 \[255, 256, 3\], expected uint8 \[256, 256, 3\]"]


def wrong_label(train: Path) -> list[str]:
    rewrite(train, lambda samples: samples.__setitem__(0, (samples[0][0], samples[0][1], 3)))
    return [rf"{key_of(train / 'train-000002.tar', 0)}: label b'3' is not one of the manifest's 3 classes"]


def exchanged_picture(train: Path) -> list[str]:
    rewrite(train, lambda samples: samples.__setitem__(0, (samples[0][0], samples[1][1], samples[0][2])))
    return [f"statistics.npz: {name} is not that of the pictures" for name in ("mean_image", "rgb_mean")]


def one_sample_less(train: Path) -> list[str]:
    rewrite(train, lambda samples: samples.pop())
    return ["train-000002.tar: 3 samples, 4 in the manifest"]


def index_of_another_shard(train: Path) -> list[str]:
    shutil.copy(train / "train-000000.idx", train / "train-000001.idx")
    return ["train-000001.idx: line 2 is 'jpg 512 .*', by the tar 'jpg 512 .*'; make the index anew with wds2idx"]


def index_off_by_one(train: Path) -> list[str]:
    path = train / "train-000000.idx"
    first, second, *rest = path.read_text().splitlines()
    words = second.split()
    words[2] = str(int(words[2]) - 1)
    path.write_text("\n".join([first, " ".join(words), *rest]) + "\n")
    return [f"train-000000.idx: line 2 is 'jpg 512 .* {key_of(path.with_suffix('.tar'), 0)}.jpg .*', by the tar"]


def cut_short(train: Path) -> list[str]:
    tar = train / "train-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[: members(tar)[16][2] + 100])
    return [
        "train-000000.tar: its SHA-256 is not the manifest's",
        "train-000000.tar: webdataset cannot read it to its end",
        r"train-000000.tar: \d samples, 10 in the manifest",
        r"train-000000.idx: line \d+ is 'jpg .*', by the tar None",
    ]


def missing_tar(train: Path) -> list[str]:
    (train / "train-000001.tar").unlink()
    return ["train-000001.tar: .*No such file"]


def missing_index(train: Path) -> list[str]:
    (train / "train-000001.idx").unlink()
    return ["train-000001.idx: missing; make it with `wds2idx"]


def stray_tar(train: Path) -> list[str]:
    shutil.copy(train / "train-000000.tar", train / "train-000009.tar")
    return ["train-000009.tar: not in the manifest"]


def other_statistics(train: Path) -> list[str]:
    path = train / "statistics.npz"
    found = Statistics.load(path)
    changed = {name: getattr(found, name) for name in found.__dataclass_fields__} | {"rgb_mean": found.rgb_mean + 1e-3}
    Statistics(**changed).save(path)
    return ["statistics.npz: rgb_mean is not that of the pictures; pack the split again"]


def damaged_statistics(train: Path) -> list[str]:
    path = train / "statistics.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return ["statistics.npz: cannot be read as statistics .*; pack the training split again"]


def statistics_of_another_shape(train: Path) -> list[str]:
    """Shapes that NumPy broadcasts to the right numbers, and one that it cannot."""
    path = train / "statistics.npz"
    found = Statistics.load(path)
    changed = {name: getattr(found, name) for name in found.__dataclass_fields__}
    changed |= {"rgb_mean": np.tile(found.rgb_mean, (2, 1)), "mean_image": np.zeros((224, 224, 3))}
    Statistics(**changed).save(path)
    return [r"statistics.npz: mean_image is float64 \[224, 224, 3\], expected float64 \[256, 256, 3\]"]


def wrong_count(train: Path) -> list[str]:
    manifest = json.loads((train / "manifest.json").read_text())
    (train / "manifest.json").write_text(json.dumps(manifest | {"samples": 25}))
    return ["manifest.json: samples is 25, expected 24, which its shards hold; restore the file, or pack the split"]


def no_statistics(train: Path) -> list[str]:
    (train / "statistics.npz").unlink()
    return ["statistics.npz: missing; training needs it", "statistics.npz: missing, though the manifest names it"]


def changed_table(field: str, value: int) -> Callable[[Path], list[str]]:
    def damage(train: Path) -> list[str]:
        rows = np.load(train / "samples.npy", mmap_mode="r+")
        rows[field][12] += value
        key = key_of(train / "train-000001.tar", 2)
        return [
            f"samples.npy: sample {key} of train-000001.tar: start, bytes, label .* are not the tar's",
            "samples.npy: its SHA-256 is not the manifest's",
        ]

    damage.__name__ = f"table_{field}"
    return damage


def table_of_other_shards(train: Path) -> list[str]:
    content = (train / "samples.npy").read_bytes()
    (train / "samples.npy").write_bytes(content[:-16] + bytes(16))
    return ["samples.npy: not the table of the shards that manifest.json names"]


def no_index(train: Path) -> list[str]:
    (train / "train-000001.idx").unlink()
    return ["train-000001.idx: missing; make it with `wds2idx"]


def no_table(train: Path) -> list[str]:
    (train / "samples.npy").unlink()
    return ["samples.npy: missing, though the manifest names it"]


DAMAGES = [
    damage_picture,
    wrong_size,
    wrong_label,
    exchanged_picture,
    one_sample_less,
    index_of_another_shard,
    index_off_by_one,
    cut_short,
    missing_tar,
    missing_index,
    stray_tar,
    other_statistics,
    damaged_statistics,
    statistics_of_another_shape,
    wrong_count,
    no_statistics,
    changed_table("picture_start", 1024),
    changed_table("picture_bytes", 7),
    changed_table("label", 1),
    table_of_other_shards,
    no_table,
    no_index,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_each_fault_is_named(damage: Callable[[Path], list[str]], train: Path) -> None:
    expected = damage(train)
    faults = split_faults(train)
    assert expected and faults
    for pattern in expected:
        assert any(re.search(pattern, fault) for fault in faults), (pattern, faults)


def test_faults_end_in_status_1_and_on_the_log(train: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage_picture(train)
    with caplog.at_level("ERROR"):
        assert verify(train.parent) == 1
    assert len(caplog.records) == 2 and all("train-000001.tar" in record.message for record in caplog.records)


def test_a_split_as_version_0_1_packed_it_has_no_faults(train: Path) -> None:
    (train / "samples.npy").unlink()
    manifest = json.loads((train / "manifest.json").read_text())
    del manifest["checksums"]
    (train / "manifest.json").write_text(json.dumps(manifest))
    assert split_faults(train) == []


def test_of_many_faults_those_that_are_not_printed_are_counted(train: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(130):
        (train / f"stray-{number}.tar").touch()
    with caplog.at_level("ERROR"):
        assert verify(train) == 1
    assert len(caplog.records) == 101 and caplog.records[-1].message == f"{train}: and 30 more"


def test_a_folder_without_splits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no packed split here \(no manifest.json\); make one with"):
        verify(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert re.search(r"manifest.json: cannot be read as a manifest", split_faults(tmp_path)[0])
    assert verify(tmp_path) == 1


def test_the_tar_is_also_read_by_webdataset(train: Path) -> None:
    """A sample that only the tar holds is found, though index, manifest and checksum agree with each other."""
    tar = train / "train-000002.tar"
    index = tar.with_suffix(".idx").read_text()
    rewrite(train, lambda samples: samples.append(("stowaway", samples[0][1], 0)))
    tar.with_suffix(".idx").write_text(index)
    assert any("line 6 is None, by the tar 'jpg" in fault and "stowaway" in fault for fault in split_faults(train))
