"""A shard's bytes do not depend on how it is cut into parts, nor on how often its parts are joined."""

from pathlib import Path

import numpy as np
import pytest

from sharding import PackOptions, pack
from sharding.job import (
    ShardNote,
    commit_split,
    finished_note,
    join_parts,
    pack_part,
    part_samples,
    sums_path,
)
from sharding.pack_index import Sample
from sharding.statistics import Sums

Parts = list[list[Sample]]


def cut(source: Path, folder: Path, size: int) -> Parts:
    """The 24 pictures of the training split, and one that is none, as one shard in parts of `size` samples."""
    paths = sorted((source / "train").glob("*/*.JPEG"))
    paths.insert(7, source / "broken.JPEG")
    samples = [Sample(f"k{number:02d}", path.name, 0, str(path), 0, -1) for number, path in enumerate(paths)]
    (folder / "job").mkdir(parents=True)
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def pack_all(folder: Path, parts: Parts) -> list[Path]:
    """Pack the parts, which hold 25 pictures, in any order; their files."""
    options = PackOptions(source=Path(), out=Path())
    packed = [pack_part(folder / "x.tar", samples, options) for samples in reversed(parts)][::-1]
    assert [pictures for _, pictures in packed] == [len(samples) for samples in parts]
    assert sum(pictures for _, pictures in packed) == 25
    return [path for path, _ in packed]


def join(folder: Path, files: list[Path]) -> ShardNote:
    return join_parts(folder / "x.tar", files, "jpeg")


@pytest.fixture
def source(class_folders: Path, tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train").symlink_to(class_folders / "train")
    (tmp_path / "source" / "broken.JPEG").write_bytes(b"no picture")
    return tmp_path / "source"


def results(folder: Path) -> dict[str, bytes]:
    """What a shard leaves, but for parts."""
    paths = [path for path in sorted(folder.rglob("x.*")) if path.suffix != ".part"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_shard_in_parts_is_the_shard_in_one(source: Path, tmp_path: Path) -> None:
    files = pack_all(tmp_path / "one", cut(source, tmp_path / "one", 25))
    assert len(files) == 1
    note = join(tmp_path / "one", files)
    assert note.samples == 24 and [reject["source"] for reject in note.rejects] == ["broken.JPEG"]
    assert finished_note(tmp_path / "one" / "x.tar") == note
    whole = results(tmp_path / "one")
    assert sorted(whole) == ["job/x.npz", "x.idx", "x.tar"]
    assert Sums.load(tmp_path / "one" / "job" / "x.npz").images == 24
    for size in (1, 4, 24):
        folder = tmp_path / str(size)
        files = pack_all(folder, cut(source, folder, size))
        assert join(folder, files) == note and results(folder) == whole
        assert sum(Sums.load(sums_path(file)).images for file in files) == 24
        (folder / "x.tar").write_bytes(b"a worker died while it joined them")
        assert finished_note(folder / "x.tar") is None
        assert join(folder, files) == note and results(folder) == whole  # by another worker, once more
        (folder / "x.idx").unlink()
        assert finished_note(folder / "x.tar") is None


@pytest.mark.parametrize(
    ("samples", "slots", "expected"),
    [
        (4_000, 1, 500),  # eight parts for each worker
        (4_000, 2, 250),
        (1_281_167, 16, 512),  # none is larger, so that a job that fails stops soon
        (40, 2, 32),  # no part is smaller
        (0, 8, 32),
    ],
)
def test_parts_suit_the_job(samples: int, slots: int, expected: int) -> None:
    assert part_samples(samples, slots) == expected


def test_a_shard_shared_by_two_processes_is_that_of_one(sample_photos: Path, tmp_path: Path) -> None:
    one, two = (
        pack(PackOptions(source=sample_photos, out=tmp_path / str(workers), workers=workers))[0] for workers in (1, 2)
    )
    names = [path.name for path in sorted(one.iterdir())]
    assert names == ["manifest.json", "samples.npy", "statistics.npz", "train-000000.idx", "train-000000.tar"]
    assert [path.name for path in sorted(two.iterdir())] == names
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert np.load(two / "samples.npy").shape == (41,)


def test_a_part_that_is_packed_again_leaves_what_is_being_joined(source: Path, tmp_path: Path) -> None:
    """A cluster takes a worker for lost and runs its task again; then the first one writes on, or writes less."""
    folder = tmp_path / "work"
    first = pack_all(folder, cut(source, folder, 25))
    again = pack_all(folder, cut(source, tmp_path / "again", 10))
    assert not set(first) & set(again) and join(folder, first).samples == 24
    whole = results(folder)
    assert join(folder, again).samples == 24 and results(folder) == whole
    assert len(list(folder.rglob("*.part"))) == 2 * len(first) + 2 * len(again)


def test_a_published_split_holds_nothing_that_a_lost_worker_left(tmp_path: Path) -> None:
    """One died in a part of a shard, one while it joined the parts."""
    work = tmp_path / "train.partial"
    for name in ("job/train-000000.tar.000000.0a.part", "train-000000.tar.0b.part", "train-000000.tar"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).touch()
    commit_split(work, tmp_path / "train")
    assert [path.name for path in (tmp_path / "train").rglob("*")] == ["train-000000.tar"] and not work.exists()
