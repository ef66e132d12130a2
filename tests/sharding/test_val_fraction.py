"""--val-fraction and the dataset card: who is in which split, and what a reader of OUT/README.md is told."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sharding import PackOptions, ShardError, ShardSet, pack
from sharding.listing import split_of
from sharding.record import Record


def keys(folder: Path) -> list[str]:
    with ShardSet.open(folder) as shards:
        return [shards.locate(at)[1] for at in range(len(shards))]


def options(source: Path, out: Path, fraction: float = 0.25, **more: object) -> PackOptions:
    return PackOptions(source=source, out=out, val_fraction=fraction, **{"workers": 1, **more})


def expected_in_val(key: str, fraction: float) -> bool:
    """The keyed hash, computed another way: as a fraction of the largest."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=b"validation").hexdigest()
    return int(digest, 16) / 16**16 < fraction


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_a_share_of_that_size_is_chosen_by_the_key_alone(fraction: float) -> None:
    def records() -> Iterator[Record]:
        return (Record(f"c{number % 3}/{number}.jpg", f"c{number % 3}", "x") for number in range(10_000))

    val, train = (
        {record.name for record in records() if split_of(record, fraction) == split} for split in ("val", "train")
    )
    assert not val & train and len(val | train) == 10_000
    assert val == {record.name for record in records() if expected_in_val(record.name[:-4], fraction)}
    assert abs(len(val) / 10_000 - fraction) < 4 * (fraction * (1 - fraction) / 10_000) ** 0.5


def test_a_link_goes_with_what_it_links_to() -> None:
    for number in range(50):
        first = Record(f"a/{number}.jpg", "a", "x", data=b"")
        linked = Record(f"b/{number}.jpg", "b", "x", link=first.name)
        assert split_of(first, 0.5) == split_of(linked, 0.5)


def test_both_splits_hold_every_picture_once_and_share_the_classes(class_folders: Path, tmp_path: Path) -> None:
    source = class_folders / "train"
    folders = pack(options(source, tmp_path / "out"))
    assert [folder.name for folder in folders] == ["train", "val"]
    train, val = map(keys, folders)
    names = sorted(str(path.relative_to(source))[:-5] for path in source.rglob("*.JPEG"))
    assert sorted(train + val) == names and val == [name for name in names if expected_in_val(name, 0.25)]
    tables = [ShardSet.open(folder).classes for folder in folders]
    assert tables[0] == tables[1] and len(tables[0]) == 3
    pack(options(source, tmp_path / "again", workers=2, samples_per_shard=5))
    assert keys(tmp_path / "again" / "val") == val
    grown = shutil.copytree(source, tmp_path / "grown")
    for number in range(9):
        shutil.copy(source / "n01440764" / "n01440764_0.JPEG", grown / "n01440764" / f"new{number}.JPEG")
    pack(options(grown, tmp_path / "more"))
    assert [key for key in keys(tmp_path / "more" / "val") if "new" not in key] == val


@pytest.mark.parametrize(("make", "advice"), [(False, "as --val-fraction 0.5"), (True, "as ARGS='--val-fraction 0.5'")])
def test_a_split_without_a_picture_is_an_error(
    make: bool, advice: str, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAKELEVEL", "1")
    if not make:
        monkeypatch.delenv("MAKELEVEL")
    with pytest.raises(ShardError, match=f"of its 24 pictures none is left for val; give more pictures, .*{advice}"):
        pack(options(class_folders / "train", tmp_path / "out", 0.0001))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ShardError, match="holds a val split already; leave --val-fraction out"):
        pack(options(class_folders, tmp_path / "out"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"fraction": 0.0}, "--val-fraction 0.0: must lie between 0 and 1"),
        ({"fraction": 1.0}, "--val-fraction 1.0: must lie between 0 and 1"),
        ({"fraction": float("nan")}, "--val-fraction nan: must lie between 0 and 1"),
        ({"split": "val"}, "--val-fraction makes train and val of one source: leave --split out"),
        ({"ground_truth": Path("x")}, "leave --ground-truth out"),
    ],
)
def test_a_wrong_share(more: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        options(tmp_path, tmp_path, **more)


def test_the_card_names_splits_classes_options_and_checksums(class_folders: Path, tmp_path: Path) -> None:
    source = shutil.copytree(class_folders / "train", tmp_path / "source")
    (source / "n01440764").rename(source / "tench | \n*tinca*")
    pack(options(source, tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    splits = [{"split": "train", "path": "train/*.tar"}, {"split": "val", "path": "val/*.tar"}]
    assert yaml.safe_load(head) == {"configs": [{"config_name": "default", "data_files": splits}]}
    for split in ("train", "val"):
        manifest = json.loads((tmp_path / "out" / split / "manifest.json").read_text())
        row = manifest["shards"][0]
        assert f"| {split}/{row['name']} | {row['samples']} | {row['bytes']} | {row['sha256']} |" in body
        assert f"| {split} | {manifest['samples']} | 1 | {row['bytes']} | 0 | 0 |" in body
        assert json.dumps(manifest["options"]) in body
        assert list((tmp_path / "out" / split).glob("*.tar")) == [tmp_path / "out" / split / row["name"]]
    assert str(source) in body and "| 2 | tench \\| *tinca* | tench \\| *tinca* |" in body
    assert "| 0 | n01443537 | n01443537 |" in body


def test_a_readme_of_somebody_else_stays(class_folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    pack(options(class_folders / "train", tmp_path / "out"))
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    assert "out/README.md: not written by packing, so it stays" in caplog.text
