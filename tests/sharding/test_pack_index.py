"""The index of a job: packing order, shards, classes, probes; a million records in little memory."""

import hashlib
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from sharding import RejectedImage, ShardError
from sharding.pack_index import PackIndex, Sample, shuffled_position
from sharding.record import Record

LABELS = {f"n{number:08d}": number for number in range(7)}


def records(count: int, spool: bool = False) -> Iterator[Record]:
    for number in range(count):
        data = b"%d" % number if spool else None
        yield Record(f"n{number % 7:08d}/{number:06d}.JPEG", f"n{number % 7:08d}", f"/src/{number}", data=data)


def filled(count: int, seed: int | None) -> PackIndex:
    pack_index = PackIndex(None, seed)
    pack_index.fill(records(count))
    return pack_index


def test_without_a_seed_the_order_is_the_sources() -> None:
    shards = list(filled(25, None).shards(10, LABELS))
    assert [len(shard) for shard in shards] == [10, 10, 5]
    samples = [sample for shard in shards for sample in shard]
    assert [sample.file for sample in samples] == [f"/src/{number}" for number in range(25)]
    assert [sample.label for sample in samples] == [number % 7 for number in range(25)]


def test_with_a_seed_it_is_that_of_the_keyed_hashes() -> None:
    found = [sample.key for shard in filled(200, 3).shards(64, LABELS) for sample in shard]
    keys = [record.name[:-5] for record in records(200)]

    def position(key: str) -> int:
        digest = hashlib.blake2b(key.encode(), digest_size=8, key=b"3").digest()
        return int.from_bytes(digest, "big") // 2

    assert found == sorted(keys, key=position) != keys
    assert shuffled_position(3, keys[5]) == position(keys[5]) < 2**63


def test_whatever_order_the_source_has() -> None:
    pack_index = PackIndex(None, 1)
    pack_index.fill(reversed(list(records(100))))
    assert list(pack_index.shards(30, LABELS)) == list(filled(100, 1).shards(30, LABELS))
    assert pack_index.digest() == filled(100, 1).digest() != filled(100, 2).digest()


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("count", [1, 5, 24, 1000])
def test_the_probe_is_spread_over_the_index(count: int, seed: int | None, tmp_path: Path) -> None:
    pack_index = PackIndex(tmp_path, seed)
    pack_index.fill(records(count, spool=True))
    order = [sample.read() for shard in pack_index.shards(count, LABELS) for sample in shard]
    places = [order.index(content) for content in pack_index.probe(10)]
    assert 1 <= len(places) <= 10 and places[0] == 0
    assert places == sorted(set(places))
    if count == 1000:
        assert len(places) == 10 and all(40 < after - before < 170 for before, after in pairwise(places))


def test_classes_and_labels() -> None:
    pack_index = PackIndex(None, None)
    names = ["ILSVRC2010_val_00000003.JPEG", "ILSVRC2010_val_00000001.JPEG"]
    pack_index.fill([Record(name, "", "/x") for name in names])
    assert pack_index.wnids() == {"": names[1]}
    pack_index.label(["a", "b", "c"], "truth")
    assert pack_index.wnids() == {"a": names[1], "c": names[0]}


def test_names_without_numbers_take_the_lines_in_order() -> None:
    pack_index = PackIndex(None, None)
    pack_index.fill([Record(name, "", "/x") for name in ("b.jpg", "c.jpg", "a.jpg")])
    with pytest.raises(ShardError, match="truth: 2 lines for 3 pictures; it must have one line each"):
        pack_index.label(["x", "y"], "truth")
    pack_index.label(["x", "y", "z"], "truth")
    assert pack_index.wnids() == {"x": "a.jpg", "y": "b.jpg", "z": "c.jpg"}


@pytest.mark.parametrize("seed", [None, 0])
def test_spooled_pictures_are_read_back_in_packing_order(seed: int | None, tmp_path: Path) -> None:
    for _ in range(2):  # what a killed job left in the spool is not appended to
        pack_index = PackIndex(tmp_path, seed)
        pack_index.fill(records(300, spool=True))
        shards = list(pack_index.shards(50, LABELS))
        for shard in shards:
            assert [sample.read() for sample in shard] == [b"%d" % int(sample.source[10:16]) for sample in shard]
        assert [[sample.key for sample in shard] for shard in shards] == [
            [sample.key for sample in shard] for shard in filled(300, seed).shards(50, LABELS)
        ]
        pack_index.close()
        (tmp_path / "pack_index.sqlite").unlink()
    assert (tmp_path / "spool").stat().st_size == sum(len(b"%d" % number) for number in range(300))


def test_a_picture_that_cannot_be_read_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "round.jpg").symlink_to("round.jpg")
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "round.jpg", "Too many levels of symbolic links")):
        with pytest.raises(RejectedImage, match=f"cannot be read: {reason}"):
            Sample("a", "a.jpg", 0, str(path), 0, -1).read()
    with pytest.raises(FileNotFoundError):  # it was there when it was listed: the source is changing
        Sample("a", "a.jpg", 0, str(tmp_path / "gone.jpg"), 0, -1).read()


def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    peaks = []
    for count in (2_000, 20_000):
        (tmp_path / str(count)).mkdir()
        pack_index = PackIndex(tmp_path / str(count), 0)
        tracemalloc.start()
        pack_index.fill(records(count))
        assert sum(len(shard) for shard in pack_index.shards(100, LABELS)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        pack_index.close()
    assert peaks[1] < 1.5 * peaks[0] + 100_000
