"""Class tables and ground truth: the real ILSVRC-2010 kit, and a kit of 2012's form made here."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from sharding import ShardError
from sharding.classes import Devkit, check_known, ground_truth, sorted_table
from sharding.record import ClassInfo


def make_meta(path: Path, year: int = 2012) -> Path:
    """A meta.mat of the official form: 4 leaves whose ids are not in wnid order, and one inner synset."""
    rows = [(1, "n03", "gamma"), (2, "n01", "alpha"), (3, "n04", "delta"), (4, "n02", "beta"), (5, "n00", "all")]
    kinds = [(f"ILSVRC{year}_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.array([(*row, 4 if row[0] == 5 else 0) for row in rows], dtype=kinds)
    scipy.io.savemat(path, {"synsets": synsets.reshape(-1, 1)})
    return path


def test_2012_counts_by_id_and_trains_by_sorted_wnid(tmp_path: Path) -> None:
    kit = Devkit.load(make_meta(tmp_path / "meta.mat"))
    assert kit.table == [
        ClassInfo(0, "n01", "alpha"),
        ClassInfo(1, "n02", "beta"),
        ClassInfo(2, "n03", "gamma"),
        ClassInfo(3, "n04", "delta"),
    ]
    assert ground_truth("1\n4\n2\n", "truth.txt", kit) == ["n03", "n02", "n01"]


def test_2010_labels_are_ids_less_one(tmp_path: Path) -> None:
    kit = Devkit.load(make_meta(tmp_path / "meta.mat", 2010))
    assert [(entry.label, entry.wnid) for entry in kit.table] == [(0, "n03"), (1, "n01"), (2, "n04"), (3, "n02")]


def test_the_real_2010_kit(imagenet2010: Path) -> None:
    kit = Devkit.load(imagenet2010 / "meta.mat")
    table = kit.table
    assert len(table) == 1000
    assert table[0] == ClassInfo(0, "n07711080", "french fries, french-fried potatoes, fries, chips")
    assert table[999] == ClassInfo(999, "n04554684", "washer, automatic washer, washing machine")
    text = (imagenet2010 / "ILSVRC2010_validation_ground_truth.txt").read_text()
    wnids = ground_truth(text, "truth.txt", kit)
    labels = {entry.wnid: entry.label for entry in table}
    assert [labels[wnid] for wnid in wnids] == [int(line) - 1 for line in text.split()]
    assert np.bincount([labels[wnid] for wnid in wnids], minlength=1000).tolist() == [50] * 1000


def test_a_kits_archive_serves_as_well(tmp_path: Path) -> None:
    make_meta(tmp_path / "meta.mat")
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("ILSVRC2012_devkit_t12/readme.txt"), io.BytesIO())
        archive.add(tmp_path / "meta.mat", "ILSVRC2012_devkit_t12/data/meta.mat")
    assert Devkit.load(tmp_path / "ILSVRC2012_devkit_t12.tar.gz") == Devkit.load(tmp_path / "meta.mat")


def test_ground_truth_may_be_wnids_but_ids_need_the_kit(tmp_path: Path) -> None:
    kit = Devkit.load(make_meta(tmp_path / "meta.mat"))
    assert ground_truth("n02\nn01\n", "truth.txt", None) == ["n02", "n01"]
    with pytest.raises(ShardError, match=r"truth.txt: holds class ids; give --devkit META.mat"):
        ground_truth("1\n2\n", "truth.txt", None)
    with pytest.raises(ShardError, match=r"truth.txt: class id 9 is not in the kit, whose ids go from 1 to 4"):
        ground_truth("1\n9\n", "truth.txt", kit)
    with pytest.raises(ShardError, match=r"n77 is neither a class id nor a known wnid"):
        ground_truth("n01\nn77\n", "truth.txt", kit)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 40, b"MATLAB 5.0 MAT-file" + b"\0" * 300])
def test_what_is_no_kit_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "meta.mat").write_bytes(content)
    with pytest.raises(ShardError, match=r"meta.mat: cannot be read as a development kit's meta.mat"):
        Devkit.load(tmp_path / "meta.mat")
    with pytest.raises(ShardError, match=r"gone.mat: cannot be read as .* \(.*No such file or directory"):
        Devkit.load(tmp_path / "gone.mat")


def test_sorted_table_and_unknown_wnids() -> None:
    table = sorted_table({"n2": "b", "n10": "c", "n1": "a"}, {"n2": "two"})
    assert table == [ClassInfo(0, "n1", "n1"), ClassInfo(1, "n10", "n10"), ClassInfo(2, "n2", "two")]
    check_known({"n1": "n1/a.jpg"}, table, "train")
    with pytest.raises(ShardError, match=r"n3/x.jpg: class n3 is not in the class table of train \(3 classes\)"):
        check_known({"n1": "n1/a.jpg", "n3": "n3/x.jpg"}, table, "train")
    with pytest.raises(ShardError, match="kit: labels 0 and 2 are both of class n1; each label must have a class of"):
        check_known({}, [ClassInfo(0, "n1", "a"), ClassInfo(1, "n2", "b"), ClassInfo(2, "n1", "c")], "kit")
