"""Five layouts of the same pictures, read in place, give the same samples; what is missing or double is named."""

import csv
import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.io

from sharding import PackOptions, ShardError, ShardSet, pack

Samples = dict[str, tuple[bytes, str]]


def packed(source: Path, out: Path, **options: object) -> Samples:
    """Pack one split and read it back: the last part of each key → (picture, wnid)."""
    (folder,) = pack(PackOptions(source=source, out=out, workers=1, **options))
    with ShardSet.open(folder) as shards:
        ids = range(len(shards))
        wnids = {entry.label: entry.wnid for entry in shards.classes}
        keys = [shards.locate(place)[1].rpartition("/")[2] for place in ids]
        pictures = [view.tobytes() for view in shards.images(ids)]
        found = {key: (data, wnids[label]) for key, data, label in zip(keys, pictures, shards.labels(ids).tolist())}
    assert len(found) == len(keys)
    return found


def checksums(folder: Path) -> list[str]:
    return [shard["sha256"] for shard in json.loads((folder / "manifest.json").read_text())["shards"]]


@pytest.fixture(scope="module")
def train(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Samples, list[str]]:
    """The training split, packed from class folders."""
    out = tmp_path_factory.mktemp("by-folders")
    found = packed(class_folders, out, split="train")
    assert len(found) == 24 and {wnid for _, wnid in found.values()} == {"n01440764", "n01443537", "n02084071"}
    assert all(key.startswith(wnid) for key, (_, wnid) in found.items())
    return found, checksums(out / "train")


def pictures(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.JPEG"))
    assert found
    return found


def tar_of(paths: list[Path], names: list[str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for path, name in zip(paths, names, strict=True):
            archive.add(path, name)
    return file.getvalue()


def train_tar(class_folders: Path, target: Path) -> Path:
    """The official form: a tar of per-class tars; here out of order, as sorting is the reader's work."""
    with tarfile.open(target, "w") as archive:
        for folder in sorted((class_folders / "train").iterdir(), reverse=True):
            paths = pictures(folder)[::-1]
            content = tar_of(paths, [path.name for path in paths])
            member = tarfile.TarInfo(f"{folder.name}.tar")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target


def test_flat_folder(class_folders: Path, train: tuple[Samples, list[str]], tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for path in pictures(class_folders / "train"):
        shutil.copy(path, tmp_path / "flat")
    assert packed(tmp_path / "flat", tmp_path / "out") == train[0]


def test_train_archive_of_class_archives(class_folders: Path, train: tuple[Samples, list[str]], tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    archive = train_tar(class_folders, tmp_path / "source" / "ILSVRC2012_img_train.tar")
    assert packed(tmp_path / "source", tmp_path / "out") == train[0]
    assert checksums(tmp_path / "out" / "train") == train[1]
    assert packed(archive, tmp_path / "from-file") == train[0]


@pytest.mark.parametrize("compress", ["gz", "xz"])
def test_a_compressed_archive_is_spooled(
    compress: str, class_folders: Path, train: tuple[Samples, list[str]], tmp_path: Path
) -> None:
    plain = train_tar(class_folders, tmp_path / "plain.tar")
    (tmp_path / "source").mkdir()
    with tarfile.open(tmp_path / "source" / f"train.tar.{compress}", f"w:{compress}") as archive:
        with tarfile.open(plain) as members:
            for member in members:
                archive.addfile(member, members.extractfile(member))
    assert packed(tmp_path / "source", tmp_path / "out", samples_per_shard=10) == train[0]
    assert not (tmp_path / "out" / "train.partial").exists()


def test_class_archives_side_by_side(class_folders: Path, train: tuple[Samples, list[str]], tmp_path: Path) -> None:
    (tmp_path / "source" / "train").mkdir(parents=True)
    for folder in sorted((class_folders / "train").iterdir()):
        paths = pictures(folder)
        content = tar_of(paths, [f"./{path.name}" for path in paths])
        (tmp_path / "source" / "train" / f"{folder.name}.tar").write_bytes(content)
    assert packed(tmp_path / "source", tmp_path / "out", split="train") == train[0]
    assert checksums(tmp_path / "out" / "train") == train[1]


def test_archives_in_a_splits_folder_come_before_those_beside_it(
    class_folders: Path, train: tuple[Samples, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "source" / "train").mkdir(parents=True)
    for folder in (class_folders / "train").iterdir():
        content = tar_of(pictures(folder), [path.name for path in pictures(folder)])
        (tmp_path / "source" / "train" / f"{folder.name}.tar").write_bytes(content)
    (tmp_path / "source" / "backup.tar").write_bytes(tar_of([], []))
    for layout in ("auto", "archives"):
        assert packed(tmp_path / "source", tmp_path / layout, layout=layout, split="train") == train[0]


def kit(folder: Path, year: int) -> Path:
    """meta.mat whose class ids are not in wnid order."""
    kinds = [(f"ILSVRC{year}_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(1, "n02084071", "dog", 0), (2, "n01440764", "tench", 0), (3, "n01443537", "goldfish", 0)]
    scipy.io.savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})
    return folder / "meta.mat"


IDS = {"n02084071": 1, "n01440764": 2, "n01443537": 3}


@pytest.mark.parametrize(("year", "labels"), [(2010, [1, 2, 0]), (2012, [0, 1, 2])])
def test_official_train_and_val_agree_on_labels(
    year: int, labels: list[int], class_folders: Path, train: tuple[Samples, list[str]], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    train_tar(class_folders, source / f"ILSVRC{year}_images_train.tar")
    paths = pictures(class_folders / "val")
    order = np.random.default_rng(1).permutation(len(paths))
    numbered = [(f"val/ILSVRC{year}_val_{number + 1:08d}.JPEG", paths[at]) for number, at in enumerate(order)]
    content = tar_of([path for _, path in numbered[::-1]], [name for name, _ in numbered[::-1]])
    (source / f"ILSVRC{year}_images_val.tar").write_bytes(content)
    truth = [path.parent.name for _, path in numbered]
    (source / f"ILSVRC{year}_validation_ground_truth.txt").write_text("".join(f"{IDS[wnid]}\n" for wnid in truth))
    kit(source, year)
    folders = pack(PackOptions(source=source, out=tmp_path / "out", workers=1))
    assert [folder.name for folder in folders] == ["train", "val"]
    tables = [ShardSet.open(folder).classes for folder in folders]
    assert tables[0] == tables[1]
    by_wnid = {entry.wnid: (entry.label, entry.name) for entry in tables[0]}
    expected = zip(("n01440764", "n01443537", "n02084071"), labels, ("tench", "goldfish", "dog"), strict=True)
    assert by_wnid == {wnid: (label, name) for wnid, label, name in expected}
    with ShardSet.open(folders[1]) as shards:
        assert shards.labels(range(9)).tolist() == [by_wnid[wnid][0] for wnid in truth]  # val keeps the source's order
        assert [shards.locate(place)[1] for place in range(9)] == [f"ILSVRC{year}_val_{n + 1:08d}" for n in range(9)]


def test_the_test_split_of_2010_has_labels(class_folders: Path, tmp_path: Path) -> None:
    paths = pictures(class_folders / "val")
    names = [f"test/ILSVRC2010_test_{number + 1:08d}.JPEG" for number in range(9)]
    source = tmp_path / "source"
    source.mkdir()
    (source / "ILSVRC2010_images_test.tar").write_bytes(tar_of(paths, names))
    (source / "latest_n.tar").write_bytes(b"of no split, by its name")
    (source / "ILSVRC2010_test_ground_truth.txt").write_text("".join(f"{IDS[path.parent.name]}\n" for path in paths))
    kit(source, 2010)
    found = packed(source, tmp_path / "out", split="test")
    assert [found[Path(name).stem][1] for name in names] == [path.parent.name for path in paths]
    with pytest.raises(ShardError, match=r"no pictures found for split val|no archives of the val split"):
        packed(source, tmp_path / "out", split="val")


def test_ground_truth_and_meta_inside_the_kits_archive(class_folders: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    paths = pictures(class_folders / "val")
    names = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(9)]
    (source / "ILSVRC2012_img_val.tar").write_bytes(tar_of(paths, names))
    truth = "".join(f"{IDS[path.parent.name]}\n" for path in paths).encode()
    with tarfile.open(source / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(kit(tmp_path, 2012), "ILSVRC2012_devkit_t12/data/meta.mat")
        member = tarfile.TarInfo("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt")
        member.size = len(truth)
        archive.addfile(member, io.BytesIO(truth))
    found = packed(source, tmp_path / "out", split="val")
    assert [found[name[:-5]][1] for name in names] == [path.parent.name for path in paths]


def test_a_flat_val_folder_takes_its_labels_from_the_ground_truth(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    paths = pictures(class_folders / "val")
    for number in (1, 3, 9):  # a part of the split will do, since official names carry their number
        shutil.copy(paths[number - 1], tmp_path / "source" / f"ILSVRC2010_val_{number:08d}.JPEG")
    truth = tmp_path / "truth.txt"
    truth.write_text("".join(f"{IDS[path.parent.name]}\n" for path in paths))
    options = {"split": "val", "ground_truth": truth}
    with pytest.raises(ShardError, match="holds class ids; give --devkit"):
        packed(tmp_path / "source", tmp_path / "no-kit", **options)
    found = packed(tmp_path / "source", tmp_path / "out", devkit=kit(tmp_path, 2010), **options)
    assert {key: wnid for key, (_, wnid) in found.items()} == {
        f"ILSVRC2010_val_{number:08d}": paths[number - 1].parent.name for number in (1, 3, 9)
    }
    assert [entry.wnid for entry in ShardSet.open(tmp_path / "out" / "val").classes] == list(IDS)
    truth.write_text("1\n2\n")
    with pytest.raises(ShardError, match=r"truth.txt: 2 lines, but ILSVRC2010_val_00000009.JPEG needs more"):
        packed(tmp_path / "source", tmp_path / "short", devkit=kit(tmp_path, 2010), **options)


def test_official_names_without_ground_truth_are_an_error(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    shutil.copy(pictures(class_folders)[0], tmp_path / "source" / "ILSVRC2010_val_00000001.JPEG")
    with pytest.raises(ShardError, match=r"its name tells no class; give --ground-truth TXT and --devkit META.mat"):
        packed(tmp_path / "source", tmp_path / "out", split="val")


def kaggle(class_folders: Path, root: Path) -> Path:
    data = root / "ILSVRC" / "Data" / "CLS-LOC"
    shutil.copytree(class_folders / "train", data / "train")
    (data / "val").mkdir()
    (data / "test").mkdir()
    rows = []
    for number, path in enumerate(pictures(class_folders / "val")):
        name = f"ILSVRC2012_val_{number + 1:08d}"
        shutil.copy(path, data / "val" / f"{name}.JPEG")
        rows.append({"ImageId": name, "PredictionString": f"{path.parent.name} 85 1 499 272 "})
    with (root / "LOC_val_solution.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["ImageId", "PredictionString"])
        writer.writeheader()
        writer.writerows(rows[::-1])
    (root / "LOC_synset_mapping.txt").write_text("n01440764 tench\nn01443537 goldfish\nn02084071 dog\nn09999999 none\n")
    return root


def test_kaggle(class_folders: Path, train: tuple[Samples, list[str]], tmp_path: Path) -> None:
    source = kaggle(class_folders, tmp_path / "source")
    folders = pack(PackOptions(source=source, out=tmp_path / "out", workers=1))
    assert [folder.name for folder in folders] == ["train", "val"]
    assert checksums(folders[0]) == train[1]
    with ShardSet.open(folders[1]) as val:
        assert [entry.name for entry in val.classes] == ["tench", "goldfish", "dog", "none"]
        wnids = [val.classes[label].wnid for label in val.labels(range(9))]
    assert wnids == [path.parent.name for path in pictures(class_folders / "val")]
    with pytest.raises(ShardError, match="test pictures have no labels"):
        packed(source, tmp_path / "test", split="test")
    (source / "LOC_val_solution.csv").unlink()
    with pytest.raises(ShardError, match=r"no LOC_val_solution.csv here or above"):
        packed(source, tmp_path / "no-solution", split="val")


def parquet(paths: list[Path], target: Path, labels: list[int], **columns: object) -> None:
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    table = pyarrow.table({"image": images, "label": labels, **columns})
    names = {"label": {"names": ["tench", "goldfish", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": names}})}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), target, row_group_size=5)


def test_hugging_face_parquet(class_folders: Path, train: tuple[Samples, list[str]], tmp_path: Path) -> None:
    data = tmp_path / "source" / "data"
    data.mkdir(parents=True)
    order = ["n01440764", "n01443537", "n02084071"]
    paths = pictures(class_folders / "train")
    for part in range(2):
        chosen = paths[part::2]
        labels = [order.index(path.parent.name) for path in chosen]
        parquet(chosen, data / f"train-0000{part}-of-00002.parquet", labels, extra=["x"] * len(chosen))
    vals = pictures(class_folders / "val")
    parquet(vals, data / "validation-00000-of-00001.parquet", [order.index(path.parent.name) for path in vals])
    parquet(vals, data / "test-00000-of-00001.parquet", [-1] * 9)
    folders = pack(PackOptions(source=tmp_path / "source", out=tmp_path / "out", workers=1, samples_per_shard=7))
    assert [folder.name for folder in folders] == ["train", "val"]
    with ShardSet.open(folders[0]) as shards:
        assert [entry.name for entry in shards.classes] == ["tench", "goldfish", "dog"]
        keys = [shards.locate(place)[1] for place in range(24)]
        found = dict(zip(keys, (view.tobytes() for view in shards.images(range(24)))))
        wnids = [shards.classes[label].wnid for label in shards.labels(range(24))]
    assert found == {key: data for key, (data, _) in train[0].items()}
    assert all(key.startswith(wnid) for key, wnid in zip(keys, wnids))
    with ShardSet.open(folders[1]) as val:
        assert [val.locate(place)[1] for place in range(9)] == [path.stem for path in vals]  # row order
    with pytest.raises(ShardError, match="row 0: label -1; a split without labels cannot be packed"):
        packed(tmp_path / "source", tmp_path / "test", split="test")


def test_two_classes_of_one_name_stay_two(class_folders: Path, tmp_path: Path) -> None:
    """ImageNet has two cranes; where image.path tells no wnid, the labels keep them apart."""
    paths = pictures(class_folders / "train")[:6]
    images = [{"bytes": path.read_bytes(), "path": f"{number}.JPEG"} for number, path in enumerate(paths)]
    names = {"label": {"names": ["crane", "dog", "crane"], "_type": "ClassLabel"}}
    table = pyarrow.table({"image": images, "label": [0, 1, 2, 0, 1, 2]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": names}})})
    (tmp_path / "source").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "source" / "train-0.parquet")
    (folder,) = pack(PackOptions(source=tmp_path / "source", out=tmp_path / "out", workers=1))
    with ShardSet.open(folder) as shards:
        assert [(entry.wnid, entry.name) for entry in shards.classes] == [
            ("0-crane", "crane"),
            ("dog", "dog"),
            ("2-crane", "crane"),
        ]
        found = {shards.locate(place)[1]: label for place, label in enumerate(shards.labels(range(6)).tolist())}
    assert found == {str(number): number % 3 for number in range(6)}


def test_two_labels_of_one_wnid_are_an_error(class_folders: Path, tmp_path: Path) -> None:
    paths = pictures(class_folders / "train")[:2]
    assert paths[0].parent == paths[1].parent
    (tmp_path / "source").mkdir()
    parquet(paths, tmp_path / "source" / "train-0.parquet", [0, 1])
    with pytest.raises(ShardError, match="labels 0 and 1 are both of class n01440764; each label must have a class"):
        packed(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out" / "train").exists()


def test_parquet_of_another_kind_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "train-0.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), path)
    with pytest.raises(ShardError, match=r"train-0.parquet: not rows of image"):
        packed(path, tmp_path / "out")
    path.write_bytes(b"rubbish")
    with pytest.raises(ShardError, match=r"train-0.parquet: cannot be read as parquet .*; fetch it again"):
        packed(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("folders", "split", "message"),
    [
        (("train", "val"), "test", r"has no folder test; it has train, val, which are splits and no classes"),
        (("train", "validation"), "test", r"has no folder test; it has train, validation, which"),
        (("test", "n01440764"), "train", r"has no folder train; it has test, which"),
    ],
)
def test_folders_of_other_splits_do_not_pass_for_classes(
    folders: tuple[str, str], split: str, message: str, class_folders: Path, tmp_path: Path
) -> None:
    picture = pictures(class_folders / "train")[0]
    for folder in folders:
        (tmp_path / "source" / folder / "n01440764").mkdir(parents=True)
        shutil.copy(picture, tmp_path / "source" / folder / "n01440764")
    with pytest.raises(ShardError, match=message):
        packed(tmp_path / "source", tmp_path / "out", split=split)
    assert not (tmp_path / "out").exists()


def test_pictures_beside_a_folder_of_another_split_are_packed_as_flat(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "source" / "train").mkdir(parents=True)
    shutil.copy(pictures(class_folders / "train")[0], tmp_path / "source")
    found = packed(tmp_path / "source", tmp_path / "out", split="test", layout="flat")
    assert len(found) == 1


def test_val_with_a_class_that_train_does_not_know(class_folders: Path, tmp_path: Path) -> None:
    source = shutil.copytree(class_folders, tmp_path / "source")
    (source / "val" / "n02084071").rename(source / "val" / "n09999999")
    packed(source, tmp_path / "out", split="train")
    with pytest.raises(ShardError, match=r"n09999999/.*: class n09999999 is not in the class table of .*train"):
        packed(source, tmp_path / "out", split="val")
    with pytest.raises(ShardError, match="class n09999999 is not in the class table"):
        packed(source, tmp_path / "x", split="val", classes=tmp_path / "out" / "train" / "manifest.json")


def test_val_of_some_classes_keeps_the_training_labels(class_folders: Path, tmp_path: Path) -> None:
    packed(class_folders, tmp_path / "out", split="train")
    (tmp_path / "val").mkdir()
    shutil.copytree(class_folders / "val" / "n02084071", tmp_path / "val" / "n02084071")
    manifest = tmp_path / "out" / "train" / "manifest.json"
    packed(tmp_path / "val", tmp_path / "elsewhere", split="val", classes=manifest)
    for _ in range(2):  # the folder will do, and does a second time
        packed(tmp_path / "val", tmp_path / "folder", split="val", classes=manifest.parent)
    with ShardSet.open(tmp_path / "elsewhere" / "val") as val:
        assert val.labels(range(3)).tolist() == [2, 2, 2] and len(val.classes) == 3


def test_patch_images_take_the_place_of_their_namesakes(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "patches" / "train").mkdir(parents=True)
    other = pictures(class_folders / "val")[0]
    shutil.copy(other, tmp_path / "patches" / "train" / "n01443537_3.JPEG")
    shutil.copy(other, tmp_path / "patches" / "n00000000_1.JPEG")  # of another split
    plain = packed(class_folders, tmp_path / "plain", split="train")
    patched = packed(class_folders, tmp_path / "patched", split="train", patch_images=tmp_path / "patches")
    changed = [key for key in plain if plain[key] != patched[key]]
    assert changed == ["n01443537_3"] and patched["n01443537_3"][1] == "n01443537"
    (tmp_path / "empty").mkdir()
    for folder, message in (
        ("empty", "no pictures to replace others with"),
        ("plain", "is a packed split, not a source"),
    ):
        with pytest.raises(ShardError, match=message):
            packed(class_folders, tmp_path / "none", split="train", patch_images=tmp_path / folder)


def test_two_sources_with_one_key_are_both_named(class_folders: Path, tmp_path: Path) -> None:
    source = shutil.copytree(class_folders / "train", tmp_path / "source")
    shutil.copy(source / "n01440764" / "n01440764_1.JPEG", source / "n01440764" / "n01440764_1.png")
    with pytest.raises(ShardError, match=r"n01440764/n01440764_1\.JPEG \(.*\) and n01440764/n01440764_1\.png"):
        packed(source, tmp_path / "out")
    assert not (tmp_path / "out" / "train").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"source: no pictures found for split train; expected <class>/<image> folders"),
        (["notes.txt"], r"source: no pictures found"),
        (["a/x.jpg", "y_1.jpg"], r"holds both pictures \(y_1.jpg, …\) and folders \(a, …\); say which"),
        (["picture.jpg"], r"picture.jpg: the name tells no class"),
        (["val/a/x.jpg"], r"holds val but not train; say --split val"),
        (["train.tar"], r"train.tar: cannot be read as a tar"),
        (["train.tar.gz"], r"train.tar.gz: cannot be read as a tar"),
    ],
)
def test_what_cannot_be_a_source_is_told(files: list[str], message: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(gzip.compress(b"rubbish" * 999) if name.endswith("gz") else b"rubbish" * 999)
    with pytest.raises(ShardError, match=message):
        packed(source, tmp_path / "out")


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"nowhere: no such folder"):
        packed(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ShardError, match=r"file.txt: neither a folder nor an archive"):
        packed(tmp_path / "file.txt", tmp_path / "out")
    (tmp_path / "source").mkdir()
    with pytest.raises(ShardError, match="no archives of the train split"):
        packed(tmp_path / "source", tmp_path / "out", layout="archives")
