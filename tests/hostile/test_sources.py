"""What a user may bring as a source, and what happens: the right samples, or one line that says what and where.

Nothing is lost in silence: every entry of a source is a sample, a reject, or counted as skipped with its reason.
"""

import bz2
import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharding import PackOptions, ShardError, ShardSet
from sharding import pack as pack_source
from tests.hostile.conftest import Outcome, class_files, jpeg, link, tar, write

ROOT = Path(__file__).resolve().parents[2]
Pack = Callable[..., Outcome]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def keys(folder: Path) -> dict[str, str]:
    """Each key of a packed split, with its class."""
    with ShardSet.open(folder) as shards:
        wnids = {entry.label: entry.wnid for entry in shards.classes}
        return {shards.locate(at)[1]: wnids[label] for at, label in enumerate(shards.labels(range(len(shards))))}


def skipped(folder: Path) -> dict[str, int]:
    return {row["reason"]: row["entries"] for row in manifest(folder)["skipped"]}


# ---- archives -------------------------------------------------------------------------------------------------------

FILES = class_files("n00000001", "n00000002", "n00000003")


def with_hole(data: bytes) -> bytes:
    """The third member, header and content, lost to zeros."""
    start, stop = 2 * 1536, 3 * 1536
    assert data[start : start + 9] == b"n00000002" and data[stop : stop + 9] == b"n00000002"
    return data[:start] + bytes(1536) + data[stop:]


def with_flipped_bit(data: bytes) -> bytes:
    return data[: 3 * 1536 + 110] + bytes([data[3 * 1536 + 110] ^ 1]) + data[3 * 1536 + 111 :]


def of_class_tars(second: bytes) -> bytes:
    """The official form: a tar of class tars, the second of which is `second`."""
    first, third = (tar(class_files(name)) for name in ("n00000001", "n00000003"))
    return tar([("n00000001.tar", first), ("n00000002.tar", second), ("n00000003.tar", third)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.tar", with_hole(tar(FILES)), "damaged after n00000001/n00000001_1.JPEG, at byte 3072 .*a hole, or"),
        ("train.tar", with_flipped_bit(tar(FILES)), "damaged after n00000002/n00000002_0.JPEG, at byte 4608 "),
        ("train.tar", tar(FILES)[: 4 * 1536], "damaged after n00000002/n00000002_1.JPEG, at byte 6144 .*empty header"),
        ("train.tar", tar(FILES)[: 4 * 1536 + 100], "at byte 6144 .*truncated header"),
        ("train.tar", tar(FILES)[: 6 * 1536 - 512], "unexpected end of data"),
        ("train.tar", tar(FILES)[: 6 * 1536 + 512], "an end mark of one block"),
        ("train.tar", tar(FILES) + tar(FILES[:1]), "more follows the end mark: a hole, or two archives in one file"),
        ("train.tar", b"<html>404</html>" * 99, "not read .*; fetch it again"),
        ("train.tar", b"", "not read"),
        ("train.tar", of_class_tars(b"<html>404</html>" * 99), r"n00000002.tar: .* not read"),
        ("train.tar", of_class_tars(b""), r"n00000002.tar: .* not read"),
        ("train.tar", of_class_tars(with_hole(tar(FILES))), r"n00000002.tar: .*n00000001/n00000001_1.JPEG, at byte"),
        ("train.tar", of_class_tars(tar(FILES)[: 4 * 1536]), r"n00000002.tar: .* at byte 6144"),
        ("train.tar.gz", gzip.compress(of_class_tars(b"<html>" * 99)), r"n00000002.tar: .* not read"),
        ("train.tar.gz", gzip.compress(tar(FILES)[: 4 * 1536]), "n00000002_1.JPEG, at byte 6144"),
        ("train.tar.gz", gzip.compress(tar(FILES))[:-4], "end-of-stream"),
        ("train.tar.gz", gzip.compress(tar(FILES))[:-8] + bytes(8), "CRC check failed"),
        ("train.tar.bz2", bz2.compress(tar(FILES))[:-4] + bytes(4), "cannot be read as a tar"),
        ("train.tar.xz", lzma.compress(tar(FILES))[:-40] + bytes(40), "cannot be read as a tar"),
    ],
)  # fmt: skip
def test_a_damaged_archive_is_named_with_the_place(
    name: str, content: bytes, message: str, pack: Pack, tmp_path: Path
) -> None:
    write(tmp_path / "source", [(name, content)])
    status, _, error = pack()
    assert status == 1
    assert re.fullmatch(rf"error: {tmp_path}/source/{name}: .*{message}.*", error), error
    assert not (tmp_path / "out").exists()


LINKED = [
    *FILES,
    link("n00000001/hard.JPEG", "n00000002/n00000002_0.JPEG"),
    link("./n00000003/chain.JPEG", "n00000001/hard.JPEG"),
    link("n00000003/soft.JPEG", "../n00000001/n00000001_1.JPEG", tarfile.SYMTYPE),
    link("n00000003/nothing.JPEG", "n00000003/gone.JPEG"),
    link("n00000003/round.JPEG", "round.JPEG", tarfile.SYMTYPE),
    link("n00000003/pipe.JPEG", "", tarfile.FIFOTYPE),
    ("n00000003/readme.txt", b"no picture"),
]


@pytest.mark.parametrize(("name", "mode"), [("train.tar", "w"), ("train.tar.gz", "w:gz")])
def test_links_in_an_archive_are_followed(name: str, mode: str, pack: Pack, tmp_path: Path) -> None:
    write(tmp_path / "source", [(name, tar(LINKED, mode))])
    status, screen, error = pack()
    assert (status, error) == (0, "")
    packed = keys(tmp_path / "out" / "train")
    assert len(packed) == 6 + 3 and packed["n00000001/hard"] == "n00000001"
    assert skipped(tmp_path / "out" / "train") == {
        "a link to what the archive does not hold": 2, "no regular file": 1, "no picture's suffix": 1,
    }  # fmt: skip
    assert "9 samples, 0 rejects, 4 skipped" in screen and "2 × a link to what the archive does not hold (" in screen
    with ShardSet.open(tmp_path / "out" / "train") as shards:
        pictures = {shards.locate(at)[1]: view.tobytes() for at, view in enumerate(shards.images(range(9)))}
    for name, target in (("n00000001/hard", "n00000002/n00000002_0"), ("n00000003/soft", "n00000001/n00000001_1")):
        assert pictures[name] == pictures[target]
    assert pictures["n00000003/chain"] == pictures["n00000001/hard"]


def test_a_tar_with_holes_in_its_files_says_so(pack: Pack, tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("GNU tar is not there")
    os.truncate(write(tmp_path, [("n00000001/a.JPEG", jpeg(1))]) / "n00000001" / "a.JPEG", 1 << 20)
    (tmp_path / "source").mkdir()
    command = ["tar", "-C", tmp_path, "--sparse", "-cf", tmp_path / "source" / "train.tar"]
    subprocess.run([*command, "n00000001"], check=True)
    status, _, error = pack()
    assert status == 1 and "n00000001/a.JPEG: stored with holes; make the tar without --sparse" in error


# ---- folders and names ----------------------------------------------------------------------------------------------


def test_every_entry_of_a_folder_is_packed_or_counted(pack: Pack, tmp_path: Path) -> None:
    source = write(tmp_path / "source", class_files("a", "b"))
    write(source, [("a/deeper/1.jpg", jpeg(9)), ("a/Thumbs.db", b""), ("notes.txt", b""), ("c/empty.txt", b"")])
    (source / "a" / "nothing.jpg").symlink_to("gone.jpg")
    (source / "a" / "linked.jpg").symlink_to("a_0.JPEG")
    (source / "a" / "round.jpg").symlink_to("round.jpg")
    (source / "a" / "others").symlink_to("../b")
    (source / "again").symlink_to(".")
    os.mkfifo(source / "b" / "pipe.jpg")
    status, screen, error = pack()
    assert (status, error) == (0, "")
    assert sorted(keys(tmp_path / "out" / "train")) == ["a/a_0", "a/a_1", "a/deeper/1", "a/linked", "b/b_0", "b/b_1"]
    assert skipped(tmp_path / "out" / "train") == {
        "no picture's suffix": 3, "a link to nothing": 1, "a link in a circle": 1, "a link to a folder": 2,
        "no regular file": 1, "a class folder without a picture": 1,
    }  # fmt: skip
    assert screen.startswith(f"packed {tmp_path}/out/train: 6 samples, 0 rejects, 9 skipped; ")
    assert "2 × a link to a folder (again)" in screen


def test_links_to_nothing_alone_are_said_to_be_skipped(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "source" / "a").mkdir(parents=True)
    (tmp_path / "source" / "a" / "x.jpg").symlink_to("gone.jpg")
    status, _, error = pack()
    assert status == 1 and "no pictures found" in error and "skipped 1, a link to nothing (a/x.jpg, …)" in error


ODD = [("caf\udce9/\udcff.jpg", jpeg(1)), ("caf\udce9/ä b.jpg", jpeg(2)), ("größe/x.jpg", jpeg(3))]


ASCII_ONLY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}, ASCII_ONLY])
@pytest.mark.parametrize("kind", ["folder", "train.tar", "train.tar.gz"])
def test_names_in_any_bytes_give_the_same_shards_in_any_locale(
    kind: str, locale: dict[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "größe"
    if kind == "folder":
        write(source, ODD)
    else:
        write(source, [(kind, tar(ODD, "w:gz" if kind.endswith("gz") else "w"))])
    command = [sys.executable, "-m", "sharding", "pack", source, tmp_path / "out", "--workers", "1"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **locale}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    folder = tmp_path / "out" / "train"
    assert keys(folder) == {"caf%E9/%FF": "caf%E9", "caf%E9/%C3%A4%20b": "caf%E9", "gr%C3%B6%C3%9Fe/x": "größe"}
    assert manifest(folder)["source"] == str(source)
    again = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, check=False)
    assert again.returncode == 0 and b"already packed with these options" in again.stderr


def test_two_folders_that_make_one_class_are_an_error(pack: Pack, tmp_path: Path) -> None:
    write(tmp_path / "source", [("caf\udce9/1.jpg", jpeg(1)), ("caf%E9/2.jpg", jpeg(2))])
    status, _, error = pack()
    assert status == 1 and "both make class caf%E9; rename one of these folders" in error


# ---- what is no source, and what is two ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "out"), [("data", "data"), ("data", "data/shards"), ("data", "data/a/b"), ("data/a", "data")]
)
def test_source_and_shards_lie_apart(source: str, out: str, pack: Pack, tmp_path: Path) -> None:
    write(tmp_path / "data" / "a", class_files("b"))
    status, _, error = pack(source=tmp_path / source, out=tmp_path / out)
    assert status == 1 and f"{tmp_path / out}: SRC and OUT must lie apart" in error
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["a"]


SHARD = "out/train/train-000000.tar"


def test_a_packed_split_is_no_source(pack: Pack, tmp_path: Path) -> None:
    write(tmp_path / "source", class_files("a", "b"))
    assert pack()[0] == 0
    shutil.copytree(tmp_path / "out", tmp_path / "beside" / "shards")
    write(tmp_path / "beside", class_files("a"))
    for source, named in (
        ("out", "out/train"),
        ("out/train", "out/train"),
        (SHARD, "out/train"),
        ("beside", "beside/shards/train"),
    ):
        status, _, error = pack(source=tmp_path / source, out=tmp_path / "again")
        assert status == 1 and f"{tmp_path / named}: is a packed split, not a source" in error
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["backup.tar", "a/1.jpg"], "backup.tar and a may both hold the train split"),
        (["backup.tar", "a_1.jpg"], "backup.tar and a_1.jpg may both"),
        (["train.tar", "train/a/1.jpg"], "train.tar and train may both"),
        (["train/backup.tar", "train/a/1.jpg"], "backup.tar and a may both"),
        (["train.tar", "train-0.parquet"], "train-0.parquet and train.tar may both"),
        (["rows.parquet", "a/1.jpg"], "rows.parquet and a may both"),
    ],
)
def test_a_split_that_may_be_there_twice_is_not_chosen_for_the_user(
    files: list[str], named: str, pack: Pack, tmp_path: Path
) -> None:
    write(tmp_path / "source", [(name, jpeg(1)) for name in files])
    status, _, error = pack()
    assert status == 1 and f"{named}" in error and "say --layout" in error


def test_a_failed_pack_leaves_no_out(pack: Pack, tmp_path: Path) -> None:
    write(tmp_path / "source", [("a/1.jpg", b"no picture")])
    assert pack(out=tmp_path / "x" / "y")[0] == 1
    write(tmp_path / "flat", [("a.jpg", jpeg(1))])
    (tmp_path / "mine").mkdir()
    assert pack(source=tmp_path / "flat", out=tmp_path / "z" / "y")[0] == 1
    assert pack(source=tmp_path / "flat", out=tmp_path / "mine")[0] == 1
    assert not (tmp_path / "z").exists() and (tmp_path / "mine").exists()


# ---- labels: Kaggle's files, ground truth, parquet -------------------------------------------------------------------


def kaggle(folder: Path, mapping: bytes, solution: bytes = b"") -> Path:
    data = folder / "ILSVRC" / "Data" / "CLS-LOC"
    write(data / "train", class_files("n00000001", "n00000002"))
    write(data / "val", [("v1.JPEG", jpeg(1)), ("v2.JPEG", jpeg(2))])
    header = b"ImageId,PredictionString\n"
    write(folder, [("LOC_synset_mapping.txt", mapping)])
    write(folder, [("LOC_val_solution.csv", solution or header + b"v2,n00000002 1 2 3 4\nv1,n00000001 1 2 3 4\n")])
    return folder


MAPPING = b"n00000001 tench\nn00000002 great white shark\n"
SOLUTION = b"ImageId,PredictionString\nv1,n00000001 1 2\nv2,n00000002 1 2\n"


@pytest.mark.parametrize(
    ("mapping", "solution"),
    [
        (MAPPING, SOLUTION),
        (b"\n" + MAPPING.replace(b"\n", b"\n\n"), SOLUTION),
        (b"\xef\xbb\xbf" + MAPPING, b"\xef\xbb\xbf" + SOLUTION),
        (MAPPING.replace(b"\n", b"\r\n"), SOLUTION.replace(b"\n", b"\r\n")),
    ],
)
def test_kaggles_tables_with_blank_lines_or_a_mark(mapping: bytes, solution: bytes, pack: Pack, tmp_path: Path) -> None:
    kaggle(tmp_path / "source", mapping, solution)
    assert pack()[0] == 0
    classes = manifest(tmp_path / "out" / "val")["classes"]
    assert [(row["label"], row["wnid"], row["name"]) for row in classes] == [
        (0, "n00000001", "tench"), (1, "n00000002", "great white shark"),
    ]  # fmt: skip
    assert keys(tmp_path / "out" / "val") == {"v1": "n00000001", "v2": "n00000002"}


@pytest.mark.parametrize(
    ("mapping", "solution", "message"),
    [
        (b"n00000001 caf\xe9\n", SOLUTION, r"LOC_synset_mapping.txt: not a text in UTF-8 \(byte 0xe9 at 13\)"),
        (b"n00000001 \0\0\n", SOLUTION, "LOC_synset_mapping.txt: not a text, byte 10 is zero"),
        (b"n00000001\n", SOLUTION, "LOC_synset_mapping.txt: line 1: 'n00000001' is not <word> <words>"),
        (MAPPING + b"n00000001 cat\n", SOLUTION, "LOC_synset_mapping.txt: line 3: 'n00000001 cat' comes twice"),
        (MAPPING, b"\x89PNG" + bytes(99), "LOC_val_solution.csv: not a text"),
        (
            MAPPING,
            b"ImageId,Prediction\nv1,n00000001\n",
            "LOC_val_solution.csv: line 1 is not ImageId,PredictionString",
        ),
        (MAPPING, SOLUTION + b"v3,\n", "LOC_val_solution.csv: line 4: 'v3,' is not <word>,<words>"),
        (MAPPING, SOLUTION + b"v1,n00000002 1\n", "LOC_val_solution.csv: line 4: 'v1,n00000002 1' comes twice"),
        (MAPPING, SOLUTION[: SOLUTION.index(b"v2")], "v2.JPEG: not in .*LOC_val_solution.csv, so its class is unknown"),
    ],
)
def test_kaggles_tables_of_other_content(
    mapping: bytes, solution: bytes, message: str, pack: Pack, tmp_path: Path
) -> None:
    kaggle(tmp_path / "source", mapping, solution)
    status, _, error = pack("--split", "val")
    assert status == 1 and re.search(message, error), error


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (b"a\n\nb\n", "truth.txt: line 2 is '', expected one class id or wnid a line"),
        (b"a b\n", "truth.txt: line 1 is 'a b', expected one"),
        (b"\xff\xfea\0", r"truth.txt: not a text in UTF-8 \(byte 0xff at 0\)"),
        (b"a\0", "truth.txt: not a text, byte 1 is zero"),
    ],
)
def test_a_ground_truth_that_would_shift_labels(truth: bytes, message: str, pack: Pack, tmp_path: Path) -> None:
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2)]
    write(tmp_path / "source", [(name, jpeg(1)) for name in names])
    write(tmp_path, [("truth.txt", truth)])
    status, _, error = pack("--split", "val", "--ground-truth", tmp_path / "truth.txt")
    assert status == 1 and re.search(message, error), error
    (tmp_path / "truth.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n\r\n")
    assert pack("--split", "val", "--ground-truth", tmp_path / "truth.txt")[0] == 0
    assert keys(tmp_path / "out" / "val") == {names[0][:-5]: "a", names[1][:-5]: "b"}


def rows(labels: list, names: list[str] | None = None, **columns: object) -> pyarrow.Table:
    images = [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in range(len(labels))]
    table = pyarrow.table({"image": images, "label": labels, **columns})
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    text = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": text} if names else None)


@pytest.mark.parametrize(
    ("name", "options", "split"),
    [("rows", [], "train"), ("train-0", [], "train"), ("validation", [], "val"), ("rows", ["--split", "val"], "val")],
)
def test_one_parquet_file_is_one_split(name: str, options: list[str], split: str, pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    file = tmp_path / "source" / f"{name}.parquet"
    pyarrow.parquet.write_table(rows([0, 1, 1]), file)
    assert pack(*options, source=file)[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == [split]
    assert keys(tmp_path / "out" / split) == {"0": "0", "1": "1", "2": "1"}
    if split == "train":  # in a folder too
        assert pack(out=tmp_path / "out-2")[0] == 0
        assert [path.name for path in (tmp_path / "out-2").iterdir() if path.is_dir()] == ["train"]


def images_as(value: object) -> pyarrow.Table:
    return pyarrow.table({"image": [value], "label": [0]})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (images_as("a.jpg"), "column image.bytes is absent, expected"),
        (images_as({"bytes": "text", "path": "a"}), "column image.bytes is string, expected"),
        (images_as({"bytes": b"x", "path": 7}), "column image.path is int64, expected"),
        (rows(["cat", "dog"]), "column label is string, expected"),
        (rows([0.5, 1.5]), "column label is double, expected"),
        (rows([True]), "column label is bool, expected"),
        (pyarrow.table({"image": [{"bytes": b"x"}]}), "column label is absent, expected"),
        (rows([0, None]), "row 1: label None; a split without labels cannot be packed"),
        (rows([0, -1]), "row 1: label -1; a split without labels cannot be packed"),
        (rows([0, 300_000_000]), "row 1: label 300000000, but labels go from 0 to 99999"),
        (rows([0, 2], ["cat", "dog"]), "row 1: label 2, but labels go from 0 to 1"),
        (rows([0]).replace_schema_metadata({"huggingface": "{"}), "its metadata under `huggingface` is damaged"),
        (rows([0]).replace_schema_metadata({"huggingface": '{"info": [1]}'}), "its metadata under `huggingface` is"),
        (rows([0, 1]).slice(0, 0), "no pictures found for split train; expected rows in the parquet files"),
        (pyarrow.concat_tables([rows([0]), rows([0])]), r"have the key 0: 0.jpg \(.*/source/train.parquet\)"),
    ],
)  # fmt: skip
def test_a_parquet_file_of_another_kind(table: pyarrow.Table, message: str, pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "source" / "train.parquet")
    status, _, error = pack()
    assert status == 1 and re.search(message, error) and str(tmp_path / "source") in error, error
    assert not (tmp_path / "out").exists()


def test_rows_without_metadata_or_bytes(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    images = [{"bytes": jpeg(1), "path": None}, {"bytes": None, "path": "gone.jpg"}, None]
    table = pyarrow.table({"image": images, "label": [1, 0, 0]}).replace_schema_metadata(
        {"huggingface": '{"info":null}'}
    )
    pyarrow.parquet.write_table(table, tmp_path / "source" / "train.parquet")
    status, screen, _ = pack()
    assert status == 0 and "1 samples, 2 rejects, 0 skipped" in screen
    assert keys(tmp_path / "out" / "train") == {"train-00000000": "1"}


# ---- a source that changes -------------------------------------------------------------------------------------------


def add(source: Path) -> None:
    write(source, [("a/new.jpg", jpeg(77))])


def remove(source: Path) -> None:
    (source / "a" / "a_0.JPEG").unlink()


def replace_(source: Path) -> None:
    write(source, [("a/a_0.JPEG", jpeg(78))])
    os.utime(source / "a" / "a_0.JPEG", ns=(5, 5))


def touch_archive(source: Path) -> None:
    (source / "train.tar").write_bytes(tar([*FILES, ("n00000001/new.JPEG", jpeg(9))]))


CHANGES = [
    (add, "a had 2 pictures, has 3"),
    (remove, "a had 2 pictures, has 1"),
    (replace_, "a was written to or renamed in"),
    (lambda source: shutil.rmtree(source / "b"), "b was removed"),
    (lambda source: write(source, [("c/1.jpg", jpeg(3))]), "c was added"),
    (touch_archive, "train.tar was written to or renamed in"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
@pytest.mark.parametrize("published", [True, False])
def test_a_changed_source_is_seen(
    published: bool, change: Callable[[Path], object], message: str, pack: Pack, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`published` False: a job of two shards that ended after the first."""
    source = tmp_path / "source"
    write(source, [("train.tar", tar(FILES))] if change is touch_archive else class_files("a", "b"))
    options = ("--samples-per-shard", 2)
    if published:
        assert pack(*options)[0] == 0
        assert pack(*options)[0] == 0  # nothing has changed yet
    else:
        with monkeypatch.context() as patch:
            patch.setattr("sharding.job.check_rejects", stop_after_one_shard)
            assert pack(*options)[0] == 1
        assert list((tmp_path / "out" / "train.partial").glob("*.tar"))
    change(source)
    status, _, error = pack(*options)
    assert status == 1 and message in error, error
    place = tmp_path / "out" / ("train" if published else "train.partial")
    assert f"remove {place}" in error or ("remove that folder" in error and str(place) in error)
    shutil.rmtree(place)
    assert pack(*options)[0] == 0


def stop_after_one_shard(notes: list, allowed: int, work: Path) -> None:
    if notes:
        raise ShardError("stopped by the test")


def test_a_picture_that_changes_between_listing_and_packing_ends_the_job(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "source", class_files("a", "b"))
    monkeypatch.setattr("sharding.packing.SplitPacking._log_estimate", lambda *_: replace_(source))
    status, _, error = pack()
    assert status == 1 and f"{source}/a/a_0.JPEG: changed since it was listed; let it be, and pack again" in error


def test_val_is_not_left_with_classes_that_train_has_no_more(pack: Pack, tmp_path: Path) -> None:
    write(tmp_path / "source" / "train", class_files("a", "b"))
    write(tmp_path / "source" / "val", class_files("a", "b"))
    assert pack()[0] == 0
    write(tmp_path / "source" / "train", class_files("0"))
    shutil.rmtree(tmp_path / "out" / "train")
    status, _, error = pack()
    assert status == 1 and f"out/val: packed with other classes than {tmp_path}/out/train/manifest.json has" in error


# ---- the process itself ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_during_imports_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "source", class_files("a"))
    write(tmp_path / "modules", [("numba.py", b"raise KeyboardInterrupt")])
    command = [sys.executable, "-m", "sharding", "pack", tmp_path / "source", tmp_path / "out"]
    path = os.pathsep.join([str(tmp_path / "modules"), str(ROOT)])
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.strip() == "interrupted; finished shards are kept: run the same command again to carry on"


@pytest.mark.slow
def test_ctrl_c_while_workers_are_prepared_is_no_traceback(tmp_path: Path) -> None:
    """NumPy, which the workers' server imports first of all, is one here that gets Ctrl-C."""
    interrupt = b"import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise ImportError"
    write(tmp_path / "modules", [("numpy.py", interrupt), ("numba.py", interrupt)])
    path = os.pathsep.join([str(tmp_path / "modules"), str(ROOT)])
    command = [sys.executable, "-c", "from sharding.executor import prestart; prestart(2)"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- any tree --------------------------------------------------------------------------------------------------------

NAMES = st.text(st.sampled_from("abÄ \udcff.%_-"), min_size=1, max_size=5).filter(lambda name: name.strip("."))
KINDS = st.sampled_from(["picture", "damaged", "empty", "text", "link", "nowhere", "round", "folder link", "pipe"])
TREES = st.dictionaries(st.tuples(NAMES, NAMES), KINDS, min_size=1, max_size=8)


def make_entry(folder: Path, name: str, kind: str, number: int) -> None:
    suffix = ".txt" if kind == "text" else "" if kind == "folder link" else ".jpg"
    path = folder / os.fsdecode((name + suffix).encode("utf-8", "surrogateescape"))
    if kind in ("picture", "damaged", "empty", "text"):
        content = {"damaged": jpeg(number)[:99], "empty": b""}.get(kind, jpeg(number))
        path.write_bytes(content)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link": "../../aside.jpg", "round": path.name, "folder link": ".."}.get(kind, "gone.jpg"))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
def test_samples_rejects_and_skipped_are_all_entries(
    tree: dict[tuple[str, str], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    write(root, [("aside.jpg", jpeg(0))])
    for number, ((folder, name), kind) in enumerate(tree.items()):
        parent = root / "source" / os.fsdecode(folder.encode("utf-8", "surrogateescape"))
        parent.mkdir(parents=True, exist_ok=True)
        make_entry(parent, name, kind, number)
    try:
        (folder,) = pack_source(PackOptions(source=root / "source", out=root / "out", workers=1, split="train"))
    except ShardError as error:
        assert str(error) and "\n" not in str(error)
        assert not any(kind in ("picture", "link") for kind in tree.values()) or "two sources have the key" in str(
            error
        )
        assert not (root / "out" / "train").exists()
        return
    packed = manifest(folder)
    counted = {row["reason"]: row["entries"] for row in packed["skipped"]}
    counted.pop("a class folder without a picture", 0)
    assert packed["samples"] + len(packed["rejects"]) + sum(counted.values()) == len(tree)
    kinds = list(tree.values())
    assert packed["samples"] == kinds.count("picture") + kinds.count("link") == len(keys(folder))
    assert len(packed["rejects"]) == kinds.count("damaged") + kinds.count("empty")
    shutil.rmtree(root)
