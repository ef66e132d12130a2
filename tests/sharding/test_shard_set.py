"""ShardSet against what `tar` and Pillow find in the same files."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding import PackOptions, ShardError, ShardSet, pack


@pytest.fixture(scope="module")
def packed(sample_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    return pack(PackOptions(source=sample_photos, out=out, samples_per_shard=15, workers=1))[0]


def members(folder: Path) -> list[tuple[str, bytes, int]]:
    """(key, picture, label) of every sample, by Python's tarfile."""
    found = []
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as archive:
            files = [(entry.name, archive.extractfile(entry).read()) for entry in archive]
        found += [(name[:-4], data, int(files[at + 1][1])) for at, (name, data) in enumerate(files) if at % 2 == 0]
    return found


def test_pictures_labels_and_places_are_those_of_the_tars(packed: Path) -> None:
    expected = members(packed)
    with ShardSet.open(packed) as shards:
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


@pytest.mark.parametrize("ids", [[-1], [40]])
def test_an_id_outside_the_split_is_an_error(packed: Path, ids: list[int]) -> None:
    with pytest.raises(ShardError, match="ids go from 0 to 39"):
        ShardSet.open(packed).images(ids)
