"""The command line: statuses, one- or two-line messages, never a traceback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sharding import PackOptions
from sharding.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


def status(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's way out
        return int(stop.code or 0)


def test_pack_verify_show_one_after_the_other(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("pack", class_folders, tmp_path / "out", "--workers", 1, "--quality", 90) == 0
    train, val = (f"packed {tmp_path}/out/{split}: " for split in ("train", "val"))
    counts = "samples, 0 rejects, 0 skipped"
    assert capsys.readouterr().out == f"{train}24 {counts}\n{val}9 {counts}\n"
    assert status("verify", tmp_path / "out", "--workers", 1) == 0
    assert status("show", tmp_path / "out", "--png", tmp_path / "sheet.png", "--samples", 4) == 0
    assert "quality 90" in capsys.readouterr().out and (tmp_path / "sheet.png").exists()
    shutil.copy(tmp_path / "out" / "train" / "train-000000.tar", tmp_path / "out" / "train" / "extra.tar")
    assert status("verify", tmp_path / "out", "--workers", 1) == 1


def test_every_option_reaches_the_job(class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr("sharding.packing.pack", lambda options: given.append(options) or [])
    line = (
        "--split test --layout flat --classes c --ground-truth g --devkit d --patch-images p --resample lanczos "
        "--quality 80 --encoding raw --samples-per-shard 9 --seed 4 --workers 3 --dry-run --scheduler tcp://x:1 "
        "--max-rejects 7 --quiet"
    )
    assert status("pack", "SRC", "OUT", *line.split()) == 0
    paths = {name: Path(name[0]) for name in ("classes", "ground_truth", "devkit", "patch_images")}
    assert given == [
        PackOptions(
            source=Path("SRC"),
            out=Path("OUT"),
            split="test",
            layout="flat",
            resample="lanczos",
            quality=80,
            encoding="raw",
            samples_per_shard=9,
            seed=4,
            workers=3,
            dry_run=True,
            scheduler="tcp://x:1",
            max_rejects=7,
            quiet=True,
            **paths,
        )
    ]
    assert status("pack", "SRC", "OUT") == 0
    assert given[1] == PackOptions(source=Path("SRC"), out=Path("OUT"))


@pytest.mark.parametrize(
    ("arguments", "expected", "message"),
    [
        ([], 2, "required: command"),
        (["pack", "SRC"], 2, "required: OUT"),
        (["pack", "", "OUT"], 2, "argument SRC: invalid path value: ''"),
        (["pack", "SRC", ""], 2, "argument OUT: invalid path value: ''"),
        (["pack", "SRC", "OUT", "--scheduler", "node1"], 2, "--scheduler node1: must be an address, as tcp://node1"),
        (["pack", "SRC", "OUT", "--quality", "high"], 2, "argument --quality: invalid int value: 'high'"),
        (["pack", "SRC", "OUT", "--quality", "101"], 2, "--quality is at most 100, got 101"),
        (["pack", "SRC", "OUT", "--split", "dev"], 2, "argument --split: invalid choice"),
        (["pack", "SRC", "OUT", "--encoding", "png"], 2, "argument --encoding: invalid choice"),
        (["pack", "SRC", "OUT", "--qual", "90"], 2, "unrecognized arguments: --qual 90"),
        (["pack", "SRC", "OUT"], 1, "error: SRC: no such folder; give the folder that holds the source pictures"),
        (["pack", "empty", "OUT"], 1, "error: empty: no pictures found for split train"),
        (["pack", "class", "file.txt"], 1, "error: file.txt/train.partial/job: Not a directory"),
        (["pack", ".", "file.txt"], 1, "file.txt: SRC and OUT must lie apart, not one in the other; choose another"),
        (["verify", "SRC", "--workers", "0"], 2, "--workers is at least 1, got 0"),
        (["verify", "SRC", "--workers", "-3"], 2, "--workers is at least 1, got -3"),
        (["show", "SRC", "--png", "sheet.xyz"], 2, "--png sheet.xyz: the contact sheet is a PNG; give a name that"),
        (["show", "SRC", "--png", "sheet"], 2, "--png sheet: the contact sheet is a PNG; give a name that"),
        (["verify", "SRC"], 1, "error: SRC: no packed split here (no manifest.json); make one with"),
        (["show", "SRC"], 1, "error: SRC: no such folder; make it with: python -m sharding pack SRC OUT"),
        (["pack", "empty", "OUT", "--classes", "no.json"], 1, "error: --classes no.json: no such file or folder"),
        (["pack", "empty", "OUT", "--ground-truth", "no"], 1, "error: --ground-truth no: no such file or folder"),
        (["pack", "class", "OUT", "--classes", "class/a.jpg"], 1, "a.jpg: cannot be read as a manifest (Unicode"),
    ],
)
def test_a_users_mistake(
    arguments: list[str],
    expected: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("no folder")
    (tmp_path / "empty").mkdir()
    if arguments[1:2] == ["class"]:
        (tmp_path / "class" / "n1").mkdir(parents=True)
        for name in ("a.jpg", "n1/b.jpg"):
            (tmp_path / "class" / name).write_bytes(b"\xff\xd8")
        arguments = [*arguments, "--layout", "folders"]
    assert status(*arguments) == expected
    stderr = capsys.readouterr().err
    assert message in stderr and "Traceback" not in stderr
    assert not (tmp_path / "OUT" / "train").exists()


@pytest.mark.slow
def test_as_a_command_with_worker_processes(class_folders: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sharding", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("pack", class_folders, tmp_path, "--workers", 2, "--samples-per-shard", 7)
    assert done.returncode == 0, done.stderr
    assert "train: 24 pictures of 3 classes to pack" in done.stderr and "24 of 24 images, " in done.stderr
    assert "image/s" in done.stderr and "\r" not in done.stderr
    done = run("verify", tmp_path, "--workers", 2)
    assert done.returncode == 0 and "every sample is as it must be" in done.stderr
    quiet = run("pack", class_folders, tmp_path / "quiet", "--quiet", "--workers", 2)
    assert (quiet.returncode, quiet.stderr, quiet.stdout.count("\n")) == (0, "", 2)
    again = run("pack", class_folders, tmp_path, "--workers", 2, "--samples-per-shard", 8)
    assert again.returncode == 1 and again.stderr.count("\n") == 1
    assert "already packed, with other options: samples_per_shard was 7, now 8" in again.stderr


def test_help_and_a_wrong_option_need_no_heavy_import() -> None:
    """So they answer at once: NumPy, Numba and Pillow take a second or more."""
    code = "import sys\nfrom sharding.__main__ import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print(sorted({'numpy', 'numba', 'PIL', 'sqlite3', 'tqdm'} & set(sys.modules)))"
    for line in (["--help"], ["pack", "--help"], ["pack", "a", "b", "--quality", "0"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *line], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", line
    assert done.stdout.startswith("alexnet-2012 ")


@pytest.mark.slow
def test_a_full_disk(class_folders: Path, tmp_path: Path) -> None:
    """On a file system of its own, of 300 kB; skipped where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system can be mounted by root only")
    try:
        (disk / "ballast").write_bytes(b"x" * 200_000)
        code = "import sys; from sharding.__main__ import main; import sharding.packing as e;"
        code += "e.free_bytes = lambda _: 10**9; sys.exit(main())"  # as if others filled the disk in the meantime
        command = [sys.executable, "-c", code, "pack", str(class_folders), str(disk), "--samples-per-shard", "5"]
        full = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert full.returncode == 1 and "Traceback" not in full.stderr
        error = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
        assert len(error) == 1 and "No space left on device" in error[0] and "run the same command again" in error[0]
        finished = list((disk / "train.partial" / "job").glob("train-*.npz"))
        told = subprocess.run([*command[:1], "-m", "sharding", *command[3:]], cwd=ROOT, capture_output=True, text=True)
        assert told.returncode == 1 and "make room, or choose another OUT" in told.stderr
        assert list((disk / "train.partial" / "job").glob("train-*.npz")) == finished
    finally:
        subprocess.run(["umount", str(disk)], check=True)
