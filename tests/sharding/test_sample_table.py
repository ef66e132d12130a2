"""samples.npy says what the indexes and tars say, and is refused where it is not of these shards."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sharding import PackOptions, ShardError, ShardSet, pack
from sharding.manifest import Manifest, file_sha256


@pytest.fixture(scope="module")
def packed(sample_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    return pack(PackOptions(source=sample_photos, out=out, samples_per_shard=15, workers=1))[0]


@pytest.fixture
def split(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "train"))


def test_numpy_reads_it_and_it_leads_to_the_members_of_the_tars(packed: Path) -> None:
    rows = np.load(packed / "samples.npy")[:-1]
    expected = []
    for tar in sorted(packed.glob("*.tar")):
        with tarfile.open(tar) as archive:
            entries = archive.getmembers()
            labels = [int(archive.extractfile(entry).read()) for entry in entries[1::2]]
        expected += [(entry.offset_data, entry.size, label) for entry, label in zip(entries[::2], labels, strict=True)]
    assert len(expected) == 40 and rows.tolist() == expected
    manifest = Manifest.load(packed / "manifest.json")
    assert manifest.checksums["samples.npy"] == file_sha256(packed / "samples.npy")
    assert set(manifest.checksums) == {path.name for path in packed.iterdir()} - {
        "manifest.json", *(shard.name for shard in manifest.shards)
    }  # fmt: skip


def test_labels_come_from_it_and_no_tar_is_mapped(split: Path) -> None:
    with ShardSet.open(split) as shards:
        expected = shards.labels(range(40)).tolist()
        for tar in split.glob("*.tar"):
            tar.unlink()
        assert shards.labels(range(40)).tolist() == expected
        with pytest.raises(FileNotFoundError):
            shards.images([0])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-16])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(16))


def other_numbers(path: Path) -> None:
    np.save(path, np.zeros(41))


def of_other_shards(path: Path) -> None:
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = "0" * 64
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("damage", [cut_short, empty, longer, other_numbers, of_other_shards], ids=lambda d: d.__name__)
def test_a_table_that_is_not_of_these_shards_is_refused(split: Path, damage) -> None:
    damage(split / "samples.npy")
    with pytest.raises(ShardError, match=r"samples.npy: not the table of the shards that manifest.json names; copy it"):
        ShardSet.open(split)
    (split / "samples.npy").unlink()  # what the message says may be done
    assert len(ShardSet.open(split).images(range(40))) == 40


@pytest.mark.parametrize(("field", "value"), [("picture_start", 0), ("picture_start", 1 << 40), ("picture_bytes", 0),
                                              ("picture_bytes", 2**31 - 1), ("picture_start", -512)])  # fmt: skip
def test_a_row_that_leads_out_of_its_tar_is_an_error_that_names_the_key(split: Path, field: str, value: int) -> None:
    rows = np.load(split / "samples.npy", mmap_mode="r+")
    rows[field][17] = value
    rows.flush()
    with ShardSet.open(split) as shards:
        key = shards.locate(17)[1]
        for read in (shards.images, shards.addresses, shards.ask_for):
            assert len(shards.images([16, 18])) == 2
            with pytest.raises(ShardError, match=f"train-000001.tar: sample {key} lies outside of its shard by the"):
                read(np.array([16, 17, 18]))


def test_a_label_outside_the_classes_is_an_error(split: Path) -> None:
    rows = np.load(split / "samples.npy", mmap_mode="r+")
    rows["label"][17] = 2
    rows.flush()
    with ShardSet.open(split) as shards, pytest.raises(ShardError, match="has label 2, which is not in the manifest's"):
        shards.labels([3, 17])
