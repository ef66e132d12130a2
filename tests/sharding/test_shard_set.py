"""ShardSet against what `tar` and Pillow find in the same files."""

import ctypes
import io
import json
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding import PackOptions, ShardError, ShardSet, pack


@pytest.fixture(scope="module")
def packed(sample_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    return pack(PackOptions(source=sample_photos, out=out, samples_per_shard=15, workers=1))[0]


def without_table(folder: Path, target: Path) -> Path:
    """A copy of a split as version 0.1 packed it."""
    shutil.copytree(folder, target)
    (target / "samples.npy").unlink()
    return target


def members(folder: Path) -> list[tuple[str, bytes, int]]:
    """(key, picture, label) of every sample, by Python's tarfile."""
    found = []
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as archive:
            files = [(entry.name, archive.extractfile(entry).read()) for entry in archive]
        found += [(name[:-4], data, int(files[at + 1][1])) for at, (name, data) in enumerate(files) if at % 2 == 0]
    return found


@pytest.mark.parametrize("table", [True, False])
def test_pictures_labels_and_places_are_those_of_the_tars(packed: Path, tmp_path: Path, table: bool) -> None:
    expected = members(packed)
    with ShardSet.open(packed if table else without_table(packed, tmp_path / "train")) as shards:
        assert len(shards) == len(expected) == 40
        assert shards.shard_sizes.tolist() == [15, 15, 10] and shards.shard_sizes.dtype == np.int64
        ids = np.random.default_rng(0).permutation(40)
        pictures, labels = shards.images(ids), shards.labels(ids)
        assert labels.dtype == np.int64 and set(labels.tolist()) == {0, 1}
        for place, sample in enumerate(ids):
            key, data, label = expected[sample]
            assert pictures[place].tobytes() == data and labels[place] == label
            assert not pictures[place].flags.writeable
            assert shards.locate(int(sample)) == (f"train-{sample // 15:06d}.tar", key)
            assert key.split("/")[0] == shards.classes[label].wnid
            assert Image.open(io.BytesIO(data)).size == (256, 256)


def test_a_pickled_set_reads_the_same(packed: Path) -> None:
    shards = ShardSet.open(packed)
    again = pickle.loads(pickle.dumps(shards))
    assert again.images([3, 39])[1].tobytes() == shards.images([39])[0].tobytes()
    assert again.fingerprint == shards.fingerprint and len(again.fingerprint) == 64


def memory(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_addresses_lead_to_the_pictures_in_memory(sample_photos: Path, tmp_path: Path, encoding: str) -> None:
    options = PackOptions(source=sample_photos, out=tmp_path, samples_per_shard=15, workers=1, encoding=encoding)
    folder = pack(options)[0]
    expected = members(folder)
    with ShardSet.open(folder) as shards:
        ids = np.random.default_rng(1).permutation(40)
        addresses, sizes = shards.addresses(ids)
        assert addresses.dtype == sizes.dtype == np.int64 and addresses.shape == sizes.shape == (40,)
        for sample, address, size in zip(ids, addresses.tolist(), sizes.tolist()):
            stored = expected[sample][1]
            pixels = stored if encoding == "jpeg" else np.load(io.BytesIO(stored)).tobytes()
            assert memory(address, size) == pixels
        again, _ = shards.addresses(ids[:7])
        assert again.tolist() == addresses[:7].tolist()  # they stay where they are
        assert [part.shape for part in shards.addresses([])] == [(0,), (0,)]


def test_threads_that_map_a_shard_at_once_get_one_mapping(packed: Path) -> None:
    with ShardSet.open(packed) as shards, ThreadPoolExecutor(8) as threads:
        pairs = list(threads.map(lambda _: shards.addresses(range(40))[0].tolist(), range(32)))
        assert all(pair == pairs[0] for pair in pairs)
        assert memory(pairs[0][39], 2) == b"\xff\xd8"


@pytest.mark.parametrize("ids", [[-1], [40]])
def test_an_id_outside_the_split_is_an_error(packed: Path, ids: list[int]) -> None:
    with pytest.raises(ShardError, match="ids go from 0 to 39"):
        ShardSet.open(packed).images(ids)


def test_other_packages_can_rely_on_these_attributes(packed: Path) -> None:
    with ShardSet.open(str(packed)) as shards:
        assert (shards.path, shards.split, shards.encoding) == (packed, "train", "jpeg")
        assert shards.shard_names == [f"train-{number:06d}.tar" for number in range(3)]
        assert [(entry.label, entry.wnid, entry.name) for entry in shards.classes] == [
            (0, "china", "china"),
            (1, "flower", "flower"),
        ]
        assert isinstance(shards.classes, tuple) and shards.options["quality"] == 95
        assert shards.statistics.images == 40 and shards.statistics is shards.statistics
        assert shards.labels([]).shape == (0,) and shards.images(np.array([], np.int64)) == []


def test_prefetch_release_and_close_leave_views_valid(packed: Path) -> None:
    shards = ShardSet.open(packed)
    shards.prefetch(1)
    (view,) = shards.images([20])
    before = view.tobytes()
    shards.release(1)
    shards.close()
    assert view.tobytes() == before == shards.images([20])[0].tobytes()


def test_the_fingerprint_is_of_bytes_and_classes(packed: Path, sample_photos: Path, tmp_path: Path) -> None:
    first = ShardSet.open(packed).fingerprint
    same = pack(PackOptions(source=sample_photos, out=tmp_path / "a", samples_per_shard=15, workers=1))[0]
    assert ShardSet.open(same).fingerprint == first
    other = pack(PackOptions(source=sample_photos, out=tmp_path / "b", samples_per_shard=15, workers=1, quality=94))[0]
    assert ShardSet.open(other).fingerprint != first
    manifest = json.loads((same / "manifest.json").read_text())
    manifest["classes"][0]["name"] = "porcelain"
    (same / "manifest.json").write_text(json.dumps(manifest))
    assert ShardSet.open(same).fingerprint != first


def test_statistics_come_from_the_training_split_beside_it(packed: Path, tmp_path: Path) -> None:
    val = shutil.copytree(packed, tmp_path / "val")
    (val / "statistics.npz").unlink()
    with pytest.raises(ShardError, match=r"no statistics.npz here nor in .*train; pack the training split"):
        _ = ShardSet.open(val).statistics
    shutil.copytree(packed, tmp_path / "train")
    assert ShardSet.open(val).statistics.images == 40


def spoil(folder: Path, what: str) -> None:
    tar = folder / "train-000001.tar"
    if what == "no manifest":
        (folder / "manifest.json").unlink()
    elif what == "no json":
        (folder / "manifest.json").write_text("{")
    elif what == "format":
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 9}))
    elif what == "no tar":
        tar.unlink()
    elif what == "no index":
        tar.with_suffix(".idx").unlink()
    elif what == "short tar":
        tar.write_bytes(tar.read_bytes()[:-1])
    elif what == "half done":
        folder.rename(folder.with_name("train.partial"))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no manifest", "train: not a packed split, it has no manifest.json; make it with: python -m sharding pack"),
        ("no json", "manifest.json: cannot be read as a manifest"),
        ("format", "manifest.json: format 9, this program reads 1"),
        ("no tar", "train-000001.tar: missing, though .*manifest.json names it; pack the split again"),
        ("no index", r"train-000001.idx: missing; make it with `wds2idx train-000001.tar train-000001.idx`"),
        ("short tar", r"train-000001.tar: \d+ bytes, the manifest says \d+; pack the split again"),
        ("half done", "train: no such folder; .*train.partial is a half-done job: run its pack command again"),
    ],
)
def test_what_is_wrong_with_a_split_is_told(packed: Path, tmp_path: Path, what: str, message: str) -> None:
    folder = without_table(packed, tmp_path / "train")
    spoil(folder, what)
    with pytest.raises(ShardError, match=message):
        ShardSet.open(folder).images([20])


def overwritten(folder: Path, sample: int, content: bytes, offset: int = 0, suffix: str = "cls") -> str:
    """Puts `content` into a member of one sample, at `offset`, in place; returns the sample's key."""
    shard, key = ShardSet.open(folder).locate(sample)
    with tarfile.open(folder / shard) as archive:
        start = archive.getmember(f"{key}.{suffix}").offset_data
    with (folder / shard).open("r+b") as tar:
        tar.seek(start + offset)
        tar.write(content)
    return key


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"x", r"or the next is not as packing writes it \(invalid literal for int\(\) with base 10: b'x'\)"),
        (b"\xff", r"or the next is not as packing writes it \(invalid literal for int\(\)"),
        (b"2", "has label 2, which is not in the manifest's table of 2 classes"),
    ],
)
def test_a_damaged_label_is_named(packed: Path, tmp_path: Path, content: bytes, what: str) -> None:
    folder = without_table(packed, tmp_path / "train")
    key = overwritten(folder, 17, content)
    with pytest.raises(ShardError, match=f"train-000001.tar: sample {key} {what}") as raised:
        ShardSet.open(folder).labels([3, 16, 17, 18])
    assert str(raised.value).endswith(f"; check the set with: python -m sharding verify {folder}")


def test_a_header_that_is_gone_is_told(packed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "train"))
    overwritten(folder, 17, bytes(512), -512, "jpg")
    with ShardSet.open(folder) as shards, pytest.raises(ShardError, match="no header of sample 17 at byte"):
        shards.locate(17)


@pytest.mark.parametrize(
    ("content", "offset"),
    [(b"\0", 0), (b"\xff", 9), (b"\0", 8), (b"True ", 40), (b"<", 21)],
    ids=["magic", "long header", "short header", "another order", "another type"],
)
def test_a_damaged_header_of_raw_pixels_is_named(
    sample_photos: Path, tmp_path: Path, content: bytes, offset: int
) -> None:
    options = PackOptions(source=sample_photos, out=tmp_path, samples_per_shard=15, workers=1, encoding="raw")
    folder = pack(options)[0]
    key = overwritten(folder, 17, content, offset, "npy")
    with ShardSet.open(folder) as shards:
        whole = np.load(io.BytesIO(members(folder)[18][1]))
        np.testing.assert_array_equal(shards.images([18])[0], whole)
        with pytest.raises(ShardError, match=f"train-000001.tar: sample {key} is no .npy of uint8") as raised:
            shards.images([3, 17, 18])
        with pytest.raises(ShardError, match=f"train-000001.tar: sample {key} is no .npy of uint8"):
            shards.addresses([3, 17, 18])
    assert str(raised.value).endswith(f"; check the set with: python -m sharding verify {folder}")


def test_keys_of_every_length_lie_where_the_index_says(sample_photos: Path, tmp_path: Path) -> None:
    """The longest name, of 94 bytes, fits in one ustar header: long keys do not change the layout."""
    source = tmp_path / "source" / "folder"
    source.mkdir(parents=True)
    photos = sorted(sample_photos.glob("china/*.jpg"))
    for photo, length in zip(photos, (1, 50, 83, 84, 200)):
        shutil.copy(photo, source / f"{'x' * length}.jpg")
    folder = pack(PackOptions(source=source.parent, out=tmp_path / "out", workers=1))[0]
    expected = members(folder)
    assert sorted(len(key) for key, _, _ in expected) == [8, 57, 90, 90, 90]
    with ShardSet.open(folder) as shards:
        assert [view.tobytes() for view in shards.images(range(5))] == [picture for _, picture, _ in expected]
