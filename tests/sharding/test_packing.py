"""The job: same bytes for any workers, carries on after a kill, never a mixture, never half a split."""

import io
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from sharding import PackOptions, ShardError, ShardSet, Statistics, job, pack
from sharding.pack_index import PackIndex

ROOT = Path(__file__).resolve().parents[2]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def options(source: Path, out: Path, **more: object) -> PackOptions:
    return PackOptions(source=source, out=out, **{"split": "train", "samples_per_shard": 5, "workers": 1, **more})


@pytest.fixture(scope="module")
def whole(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the training split, packed undisturbed by one worker: 24 samples in 5 shards."""
    (folder,) = pack(options(class_folders, tmp_path_factory.mktemp("whole")))
    found = files(folder)
    shards = [f"train-{number:06d}.{suffix}" for number in range(5) for suffix in ("idx", "tar")]
    assert list(found) == ["manifest.json", "samples.npy", "statistics.npz", *shards]
    return found


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    class_folders: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    (folder,) = pack(options(class_folders, tmp_path, workers=3))
    assert files(folder) == whole
    assert not (tmp_path / "train.partial").exists()


def test_the_manifest_says_what_is_there(class_folders: Path, whole: dict[str, bytes]) -> None:
    manifest = json.loads(whole["manifest.json"])
    assert (manifest["format"], manifest["split"], manifest["encoding"]) == (1, "train", "jpeg")
    assert (manifest["samples"], [shard["samples"] for shard in manifest["shards"]]) == (24, [5, 5, 5, 5, 4])
    assert [shard["bytes"] for shard in manifest["shards"]] == [len(whole[s["name"]]) for s in manifest["shards"]]
    assert manifest["classes"][1] == {"label": 1, "wnid": "n01443537", "name": "n01443537"}
    chosen = {name: manifest["options"][name] for name in ("layout", "resample", "quality", "encoding", "seed")}
    assert chosen == {"layout": "folders", "resample": "area", "quality": 95, "encoding": "jpeg", "seed": 0}
    assert manifest["rejects"] == [] and manifest["source"] == str(class_folders)


def test_statistics_are_those_of_the_decoded_shards(whole: dict[str, bytes], tmp_path: Path) -> None:
    pictures = []
    for name in (name for name in whole if name.endswith(".tar")):
        with tarfile.open(fileobj=io.BytesIO(whole[name])) as archive:
            jpegs = [archive.extractfile(entry).read() for entry in archive if entry.name.endswith(".jpg")]
        pictures += [np.asarray(Image.open(io.BytesIO(jpeg))).astype(np.float64) for jpeg in jpegs]
    (tmp_path / "statistics.npz").write_bytes(whole["statistics.npz"])
    found = Statistics.load(tmp_path / "statistics.npz")
    assert found.images == len(pictures) == 24
    np.testing.assert_allclose(found.mean_image, np.mean(pictures, axis=0), rtol=1e-13)
    pixels = np.concatenate(pictures).reshape(-1, 3)
    np.testing.assert_allclose(found.rgb_covariance, np.cov(pixels.T, bias=True), rtol=1e-10)


def keys(folder: Path) -> list[str]:
    with ShardSet.open(folder) as shards:
        return [shards.locate(place)[1] for place in range(len(shards))]


def test_train_is_shuffled_by_seed_and_val_keeps_the_order(class_folders: Path, tmp_path: Path) -> None:
    orders = [
        keys(pack(options(class_folders, tmp_path / name, seed=seed))[0])
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) != orders[0]
    assert len({key.split("/")[0] for key in orders[0][:8]}) > 1  # the first class is not alone at the start
    val = keys(pack(options(class_folders, tmp_path / "v", split="val"))[0])
    assert val == sorted(val) and len(val) == 9
    assert not (tmp_path / "v" / "val" / "statistics.npz").exists()


def test_without_a_split_train_and_val_are_packed(class_folders: Path, tmp_path: Path) -> None:
    folders = pack(options(class_folders, tmp_path / "both", split=None))
    assert [folder.name for folder in folders] == ["train", "val"]
    with ShardSet.open(folders[1]) as val, ShardSet.open(folders[0]) as train:
        assert val.classes == train.classes
        assert (val.statistics.mean_image == train.statistics.mean_image).all()
    alone = pack(options(class_folders / "val", tmp_path / "alone", split=None))
    assert [folder.name for folder in alone] == ["train"]


def test_packing_again_does_nothing_and_other_options_are_an_error(
    class_folders: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    (folder,) = pack(options(class_folders, tmp_path))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert pack(options(class_folders, tmp_path, workers=2)) == [folder]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(ShardError, match=r"train: already packed, with other options: quality was 95, now 90"):
        pack(options(class_folders, tmp_path, quality=90))
    assert files(folder) == whole


def test_a_folder_in_the_way(class_folders: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("mine")
    with pytest.raises(ShardError, match=r"train: holds other files, no packed split; move it away"):
        pack(options(class_folders, tmp_path))
    (tmp_path / "train" / "notes.txt").unlink()  # an empty one is not in the way
    assert files(pack(options(class_folders, tmp_path))[0]) == whole


KILLER = """
import os, signal, sys
from sharding import PackOptions, job, pack, packing
real, calls = getattr({module}, "{name}"), [0]
def dying(*args, **kwargs):
    calls[0] += 1
    if calls[0] == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr({module}, "{name}", dying)
pack(PackOptions(source={source!r}, out={out!r}, split="train", samples_per_shard=5, workers=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "number", "whole_shards"),
    [
        ("job", "pack_picture", 3, {0}),  # within the first shard
        ("job", "pack_picture", 18, {2, 3}),  # within the fourth; the third may wait to be joined
        ("job", "finished_note", 1, {0}),  # before any
        ("job", "rows_of", 2, {1}),  # the second shard's tar is there, its note is not
        ("job", "commit_split", 1, {5}),  # all are there, and the manifest
        ("job.shutil", "rmtree", 1, {5}),
    ],
)
def test_killed_anywhere_it_carries_on_to_the_same_bytes(
    module: str,
    name: str,
    number: int,
    whole_shards: set[int],
    class_folders: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = KILLER.format(module=module, name=name, number=number, source=str(class_folders), out=str(tmp_path))
    if name == "finished_note":
        script = script.replace("attr(job", "attr(packing")
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "train").exists()
    notes = list((tmp_path / "train.partial" / "job").glob("train-*.npz"))
    assert len(notes) in whole_shards
    packed_now = []
    real = job.pack_picture
    monkeypatch.setattr(job, "pack_picture", lambda *args: packed_now.append(1) or real(*args))
    with pytest.raises(ShardError, match=r"half-done job, begun with other options: quality was 95, now 94"):
        pack(options(class_folders, tmp_path, quality=94))
    (folder,) = pack(options(class_folders, tmp_path))
    assert files(folder) == whole
    assert len(packed_now) == 24 - min(24, 5 * len(notes))
    assert not (tmp_path / "train.partial").exists()


def test_a_changed_source_is_not_mixed_in(class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shutil.copytree(class_folders / "train", tmp_path / "source")
    with monkeypatch.context() as patch:
        stop_after(patch, 12, OSError(5, "Input/output error"))
        with pytest.raises(OSError, match="Input/output error"):
            pack(options(source, tmp_path / "out"))
    shutil.copy(source / "n01440764" / "n01440764_1.JPEG", source / "n01440764" / "n01440764_99.JPEG")
    with pytest.raises(
        ShardError, match=r"source: has changed since the half-done .*: n01440764 had 8 pictures, has 9"
    ):
        pack(options(source, tmp_path / "out"))
    (source / "n01440764" / "n01440764_99.JPEG").unlink()
    assert len(keys(pack(options(source, tmp_path / "out"))[0])) == 24


def stop_after(patch: pytest.MonkeyPatch, pictures: int, error: BaseException) -> None:
    """Let packing of one picture raise `error` after so many."""
    real, calls = job.pack_picture, []

    def failing(*args: object) -> bytes:
        calls.append(1)
        if len(calls) > pictures:
            raise error
        return real(*args)

    patch.setattr(job, "pack_picture", failing)


def test_an_error_before_the_first_shard_leaves_nothing_behind(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    shutil.copy(
        class_folders / "val" / "n01440764" / "n01440764_0.JPEG", tmp_path / "source" / "ILSVRC2010_val_00000001.JPEG"
    )
    with pytest.raises(ShardError, match="give --ground-truth"):
        pack(options(tmp_path / "source", tmp_path / "out", split="val"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "truth.txt").write_text("n01440764\n")  # and then the mended command is no "other options"
    assert pack(options(tmp_path / "source", tmp_path / "out", split="val", ground_truth=tmp_path / "truth.txt"))


def test_two_jobs_in_one_folder(class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []

    def second(*args: object) -> bytes:
        if not errors:
            with pytest.raises(ShardError, match=r"train.partial: another pack command is at work there"):
                pack(options(class_folders, tmp_path))
            errors.append(1)
        return real(*args)

    real = job.pack_picture
    monkeypatch.setattr(job, "pack_picture", second)
    pack(options(class_folders, tmp_path))
    assert errors == [1]


@pytest.fixture
def with_bad_files(class_folders: Path, tmp_path: Path) -> Path:
    """21 good pictures and three bad ones, in names and content."""
    source = shutil.copytree(class_folders / "train", tmp_path / "source")
    folder = source / "n01440764"
    (folder / "n01440764_0.JPEG").write_bytes(b"")
    (folder / "n01440764_1.JPEG").write_bytes(b"<html>404</html>")
    good = (folder / "n01440764_2.JPEG").read_bytes()
    (folder / "n01440764_2.JPEG").write_bytes(good[: len(good) // 2])
    (folder / "Thumbs.db").write_bytes(b"no picture, and not taken for one")
    return source


def test_bad_pictures_go_to_the_rejects_and_the_job_goes_on(with_bad_files: Path, tmp_path: Path) -> None:
    (folder,) = pack(options(with_bad_files, tmp_path / "out", max_rejects=3, workers=2))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["samples"] == 21 and sum(shard["samples"] for shard in manifest["shards"]) == 21
    rejects = {entry["source"]: entry["reason"] for entry in manifest["rejects"]}
    assert sorted(rejects) == [f"n01440764/n01440764_{number}.JPEG" for number in range(3)]
    assert rejects["n01440764/n01440764_0.JPEG"] == "empty file"
    assert rejects["n01440764/n01440764_1.JPEG"].startswith("not a picture")
    assert rejects["n01440764/n01440764_2.JPEG"].startswith("does not decode")
    assert Statistics.load(folder / "statistics.npz").images == 21
    assert not {"n01440764/n01440764_0", "n01440764/Thumbs"} & set(keys(folder))


def test_too_many_rejects_fail_before_anything_is_published(with_bad_files: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"3 pictures cannot be packed, --max-rejects allows 2: .*_\d.JPEG: "):
        pack(options(with_bad_files, tmp_path / "out", max_rejects=2))
    assert not (tmp_path / "out" / "train").exists()
    (folder,) = pack(options(with_bad_files, tmp_path / "out", max_rejects=3))  # raised, it carries on
    assert len(keys(folder)) == 21


def test_a_shard_whose_every_picture_was_rejected_is_left_out(with_bad_files: Path, tmp_path: Path) -> None:
    (folder,) = pack(options(with_bad_files, tmp_path / "out", samples_per_shard=1))
    assert len(keys(folder)) == len(list(folder.glob("*.tar"))) == len(list(folder.glob("*.idx"))) == 21


@pytest.mark.parametrize("split", ["train", "val"])
def test_when_every_picture_was_rejected_the_first_is_named(split: str, tmp_path: Path) -> None:
    (tmp_path / "source" / "a").mkdir(parents=True)
    for number in range(7):
        (tmp_path / "source" / "a" / f"{number}.JPEG").write_bytes(b"<html>404</html>" if number else b"")
    message = rf"source: all pictures of split {split} were rejected \(7\); the first: a/\d.JPEG: (empty|not a pic)"
    for _ in range(2):  # the same command again says the same
        with pytest.raises(ShardError, match=message):
            pack(options(tmp_path / "source", tmp_path / "out", split=split))
    assert not (tmp_path / "out" / split).exists()


def test_a_full_disk_is_told_and_loses_no_finished_shard(
    class_folders: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 12, OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space left on device"):
            pack(options(class_folders, tmp_path))
    assert {path.name for path in (tmp_path / "train.partial").glob("*")} >= {"train-000000.tar", "train-000001.tar"}
    assert not list((tmp_path / "train.partial").rglob("*.part"))
    shard = tmp_path / "train.partial" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])  # and a shard that lost its end since is packed again
    assert files(pack(options(class_folders, tmp_path))[0]) == whole


@pytest.mark.parametrize("left", [b"", b"SQLite format 3\0 and rubbish", None])
def test_half_an_index_that_a_kill_left_is_made_anew(
    left: bytes | None, class_folders: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`left` None: the real index without its second half."""
    with monkeypatch.context() as patch:
        stop_after(patch, 12, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            pack(options(class_folders, tmp_path))
    path = tmp_path / "train.partial" / "job" / "pack_index.sqlite"
    pack_index = path.read_bytes()
    assert len(pack_index) > 8192
    path.write_bytes(pack_index[: len(pack_index) // 2] if left is None else left)
    assert files(pack(options(class_folders, tmp_path))[0]) == whole


def test_a_disk_that_is_too_small_is_an_error_beforehand(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200_000))
    with pytest.raises(ShardError, match=r"out: 200kB free, about 8\.\d\dMB needed while packing; make room"):
        pack(options(class_folders, tmp_path / "out"))
    assert not (tmp_path / "out" / "train.partial").exists()


def test_a_write_limit_in_worker_processes_is_told(class_folders: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    command = [sys.executable, "-m", "sharding", "pack", str(class_folders), str(tmp_path), "--workers", "2"]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert failed.returncode == 1
    assert "error: " in failed.stderr and "File too large" in failed.stderr and "Traceback" not in failed.stderr


def test_dry_run_tells_and_writes_nothing(
    class_folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert pack(options(class_folders, tmp_path / "out", dry_run=True, split=None)) == []
    assert not (tmp_path / "out").exists()
    lines = [record.message for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("train: 24 pictures of 3 classes to pack (layout: folders); about ")
    assert lines[1].startswith("val: 9 pictures of 3 classes to pack ")
    assert re.search(r"out: [\d.]+[GTP]B free, about .* needed while packing; about \d+ s with 1", lines[1])


def test_the_estimate_is_near_the_truth(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        (folder,) = pack(options(photos, tmp_path, samples_per_shard=100, workers=2))
    megabytes = float(caplog.records[0].message.split("about ")[1].split("MB")[0])
    true = sum(path.stat().st_size for path in folder.glob("*.tar")) / 1e6
    assert megabytes == pytest.approx(true, rel=0.25)
    assert len(keys(folder)) == 300


def test_raw_shards_hold_the_pixels(class_folders: Path, tmp_path: Path) -> None:
    (raw,) = pack(options(class_folders, tmp_path / "raw", encoding="raw"))
    (jpeg,) = pack(options(class_folders, tmp_path / "jpeg"))
    with ShardSet.open(raw) as pixels, ShardSet.open(jpeg) as files_:
        assert [pixels.locate(place) for place in range(24)] == [files_.locate(place) for place in range(24)]
        for view, data in zip(pixels.images(range(24)), files_.images(range(24))):
            assert view.shape == (256, 256, 3) and not view.flags.writeable
            assert np.abs(view.astype(int) - simplejpeg.decode_jpeg(data.tobytes())).mean() < 3


def test_a_killed_spool_begins_anew_and_a_whole_one_is_kept(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "train.tar.gz", "w:gz") as archive:
        archive.add(class_folders / "train", "train")
    listed = []
    real = PackIndex.fill
    monkeypatch.setattr(PackIndex, "fill", lambda *args: listed.append(1) or real(*args))
    with monkeypatch.context() as patch:
        stop_after(patch, 12, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            pack(options(tmp_path / "train.tar.gz", tmp_path / "out"))
    assert len(listed) == 1 and (tmp_path / "out" / "train.partial" / "job" / "spool").stat().st_size > 10_000
    (folder,) = pack(options(tmp_path / "train.tar.gz", tmp_path / "out"))
    assert len(listed) == 1  # read once
    assert len(keys(folder)) == 24
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train", "README.md"}


def test_shards_of_which_no_list_is_left_are_not_mixed_in(
    class_folders: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "train.partial" / "job").mkdir(parents=True)
    for name in ("train-000000.tar", "train-000007.tar", "train-000007.idx", "job/train-000000.npz"):
        (tmp_path / "train.partial" / name).write_bytes(b"of another source")
    assert files(pack(options(class_folders, tmp_path))[0]) == whole


def test_a_compressed_archive_is_judged_without_being_spooled(
    class_folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "train.tar.gz", "w:gz") as archive:
        archive.add(class_folders / "train", "train")
    with caplog.at_level("INFO"):
        assert pack(options(tmp_path / "train.tar.gz", tmp_path / "out", dry_run=True)) == []
    assert "24 pictures of 3 classes to pack (layout: archives); about " in caplog.text
    spool = r"about \d\d\dkB in 5 shards; .* needed while packing, \d\d\dkB of it to spool what is only read in order; "
    assert re.search(spool, caplog.text)
    assert not (tmp_path / "out").exists()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    with pytest.raises(ShardError, match=r"20\.0kB free, about .* needed while packing, \d\d\dkB of it to spool what"):
        pack(options(tmp_path / "train.tar.gz", tmp_path / "out"))


def test_a_dry_run_finds_a_class_of_val_that_train_lacks(class_folders: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(class_folders, tmp_path / "source"))
    picture = next((source / "train").glob("*/*.JPEG"))
    (source / "val" / "n99999999").mkdir(parents=True)
    shutil.copy(picture, source / "val" / "n99999999" / "new.JPEG")
    with pytest.raises(ShardError, match="class n99999999 is not in the class table of the training split"):
        pack(options(source, tmp_path / "out", dry_run=True, split=None))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_room_for_spool_and_shards_is_asked_for_before_spooling(
    dry_run: bool, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is enough for the shards alone, as packing from folders shows, is not enough for the spool besides."""
    with tarfile.open(tmp_path / "train.tar.gz", "w:gz") as archive:
        archive.add(class_folders / "train", "train")
    spool = (tmp_path / "train.tar.gz").stat().st_size
    usage, real, listed = shutil.disk_usage(tmp_path), PackIndex.fill, []
    monkeypatch.setattr(PackIndex, "fill", lambda *args: listed.append(1) or real(*args))

    def run(source: Path, free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
        pack(options(source, tmp_path / "out", dry_run=dry_run))

    with pytest.raises(ShardError, match="needed while packing; make room") as told:
        run(class_folders, 0)
    listed.clear()
    shards = float(re.search(r"about (\d+\.\d+)MB", str(told.value))[1]) * 1e6
    with pytest.raises(ShardError, match=r"needed while packing, .* to spool what is only read in order; make room"):
        run(tmp_path / "train.tar.gz", int(shards + spool / 2))
    assert (dry_run or not listed) and not (tmp_path / "out" / "train.partial").exists()
    run(tmp_path / "train.tar.gz", int(shards + spool + 1_000_000))
    assert listed
    assert (tmp_path / "out" / "train").exists() != dry_run


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("quality", 0, "--quality is at least 1, got 0"),
        ("workers", 0, "--workers is at least 1, got 0"),
        ("samples_per_shard", 0, "--samples-per-shard is at least 1, got 0"),
        ("resample", "cubic", "--resample is one of area, lanczos"),
        ("split", "training", "--split is one of train, val, test"),
    ],
)
def test_wrong_options(option: str, value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        PackOptions(source=tmp_path, out=tmp_path, **{option: value})


def test_same_pictures_whatever_the_option_order_of_makers(
    scene: np.ndarray, as_file: Callable[..., bytes], tmp_path: Path
) -> None:
    """A 256×256 JPEG goes into the tar byte for byte, under its escaped key."""
    (tmp_path / "source" / "a class").mkdir(parents=True)
    data = as_file(np.ascontiguousarray(scene[:256, :256]), quality=80)
    (tmp_path / "source" / "a class" / ".näme..x.jpeg").write_bytes(data)
    (folder,) = pack(options(tmp_path / "source", tmp_path / "out"))
    with ShardSet.open(folder) as shards:
        assert shards.images([0])[0].tobytes() == data
        assert shards.locate(0) == ("train-000000.tar", "a%20class/%2En%C3%A4me%2E%2Ex")
        assert shards.classes[0].wnid == "a class"
