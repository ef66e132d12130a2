"""Under real torchrun: two agents as two nodes, restarts, signals passed on, and the Slurm script around them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.checkpoint import load_checkpoint
from tests.training.conftest import Arguments
from tests.training.ranks import SECONDS, free_port
from train import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train.slurm"

# A train.py for the test: the first start kills a rank in step 3; the second one sends what Slurm sends, in step 6.
TRAIN = f"""
import contextlib, os, signal, sys, time
sys.path[0] = {str(ROOT)!r}
import train
from training.progress import Progress
from training import trainer
add, restarted = Progress.add, os.path.exists("killed")
def add_and_signal(self, step):
    add(self, step)
    if not restarted and step.step == 3 and os.environ["RANK"] == "1":
        open("killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if restarted and step.step == 6 and os.environ["RANK"] == "0":
        os.kill(int(os.environ["SRUN_PID"]), signal.SIGUSR1)
        end = time.monotonic() + 60
        while not received:
            assert time.monotonic() < end
            time.sleep(0.01)
Progress.add = add_and_signal
stop_signals = trainer.stop_signals
@contextlib.contextmanager
def watched_signals():
    global received
    with stop_signals() as received:
        yield received
trainer.stop_signals = watched_signals
sys.exit(train.main())
"""
# srun: two nodes on this machine; a signal goes to both, as from Slurm, and the worse exit status comes back.
SRUN = """#!/bin/bash
shift
export SRUN_PID=$$
"$@" & first=$!
"$@" & second=$!
trap 'kill -USR1 $first $second' USR1
for process in $first $second; do
    wait $process; result=$?  # also of one that has ended already
    while kill -0 $process 2>/dev/null; do wait $process; result=$?; done
    echo "node ended with $result" >> "$NOTES"
done
exit $result
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$NOTES"
[ "$1" = show ] && echo 127.0.0.1
exit 0
"""


@pytest.fixture
def cluster(python: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a batch job on two nodes of one process, with `srun` and `scontrol` that stand for Slurm's."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(text)
        command.chmod(0o755)
    (tmp_path / "train.py").write_text(TRAIN)
    job = {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": str(free_port() + 20000),  # 20000 + this % 20000 is free, or was
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "PROCESSES_PER_NODE": "1",
    }
    commands = {"TORCHRUN": f"{python} -m torch.distributed.run", "NOTES": str(tmp_path / "notes")}
    commands["PYTHON_EXEC"] = str(python)  # what torchrun runs
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return os.environ | job | commands | {"PATH": path, "OMP_NUM_THREADS": "1"}


def test_slurm_job_survives_a_dead_rank_saves_on_a_signal_and_is_requeued(
    cluster: dict[str, str], arguments: Arguments, shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = arguments(run, "--checkpoint-minutes", "0")[4:]
    command = ["bash", str(SCRIPT), str(shards), str(run), *options]
    job = subprocess.run(command, env=cluster, capture_output=True, text=True, timeout=SECONDS)
    assert job.returncode == 0, job.stderr
    notes = (tmp_path / "notes").read_text().splitlines()
    assert notes == [
        "scontrol show hostnames node[1-2]",
        "node ended with 1",
        "node ended with 1",
        f"scontrol requeue {cluster['SLURM_JOB_ID']}",
    ]
    assert "requeueing job" in job.stdout and "stopped after step 6" in job.stderr
    assert "going on after step 2" in job.stderr  # the restart by torchrun
    assert json.loads((run / "stopped").read_text())["step"] == 6
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] == 6
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if "rate" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert main(arguments(run)) == 0
    assert not (run / "stopped").exists()


def test_failed_slurm_job_is_not_requeued(cluster: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stopped").write_text("of an earlier job")
    failing = cluster | {"TORCHRUN": "false"}
    job = subprocess.run(["bash", str(SCRIPT), "shards", "run"], env=failing, capture_output=True, timeout=SECONDS)
    assert job.returncode == 1
    assert "requeue" not in (tmp_path / "notes").read_text()
    usage = subprocess.run(["bash", str(SCRIPT), "shards"], env=failing, capture_output=True, timeout=SECONDS)
    assert usage.returncode == 2 and b"SHARDS RUN" in usage.stderr


def test_shards_are_copied_to_each_nodes_disk_before_training(
    cluster: dict[str, str], shards: Path, tmp_path: Path
) -> None:
    stage = tmp_path / "stage"
    staging = {"STAGE": str(stage), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "TORCHRUN": "echo"}
    command = ["bash", str(SCRIPT), str(shards), "run", "--epochs", "3"]
    job = subprocess.run(command, env=cluster | staging, capture_output=True, text=True, timeout=SECONDS)
    assert job.returncode == 0, job.stderr
    assert job.stdout.count(f"train.py --shards {stage} --run-dir run --epochs 3") == 2  # one a node
    originals = [path for path in shards.rglob("*") if path.suffix in (".tar", ".npy", ".json")]
    assert len(originals) > 3
    assert all((stage / path.relative_to(shards)).read_bytes() == path.read_bytes() for path in originals)
    command[2] = str(tmp_path / "nothing")
    job = subprocess.run(command, env=cluster | staging, capture_output=True, text=True, timeout=SECONDS)
    assert job.returncode == 1 and "no packed split there" in job.stderr and "train.py" not in job.stdout


TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
LAUNCH = [TORCHRUN, "--standalone", "--nproc-per-node", "2"]


def torchrun(command: list[str], folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command of torchrun, as typed, to its end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)


def test_command_as_the_readme_types_it_trains_and_goes_on(python: Path, arguments: Arguments, tmp_path: Path) -> None:
    """Options of train.py after its name reach train.py, without `--`; the same command goes on; other ones do not.

    The first step is one process's. The command that does not go on is not restarted into going on either.
    """
    run = tmp_path / "run"
    assert main(arguments(run, "--max-steps", "1")) == 0
    job = torchrun([*LAUNCH, "train.py", *arguments(run, "--max-steps", "2")], ROOT)
    assert job.returncode == 0, job.stderr
    assert "2 processes on CPU" in job.stderr
    assert "going on after step 1" in job.stderr and "done after step 2" in job.stderr

    def files() -> dict[Path, bytes]:
        """But for the lock, which says who held it last."""
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}

    before = files()
    alone = [str(python), "-m", "torch.distributed.run", "--standalone", "--max-restarts", "1"]
    job = torchrun([*alone, "train.py", *arguments(run, "--seed", "7")], ROOT, PYTHON_EXEC=str(python))
    assert job.returncode == 1
    assert job.stderr.count("--seed was 0, is 7") >= 2  # by the start and by the restart
    assert files() == before


def test_restart_by_torchrun_goes_on_by_itself(python: Path, arguments: Arguments, tmp_path: Path) -> None:
    """One node, two processes, one killed: the second start goes on from the checkpoint of the first.

    With --resume-from too: the restart does not go back to that file.
    """
    (tmp_path / "train.py").write_text(TRAIN.replace("step.step == 6", "False"))
    run, options = tmp_path / "run", ("--checkpoint-minutes", "0")
    assert main(arguments(tmp_path / "first", "--max-steps", "1")) == 0
    begin = ("--resume-from", str(tmp_path / "first" / "checkpoints" / "last.pt"))
    command = [str(python), "-m", "torch.distributed.run", *LAUNCH[1:], "--max-restarts", "1"]
    command += ["train.py", *arguments(run, *options, *begin)]
    job = torchrun(command, tmp_path, PYTHON_EXEC=str(python))
    assert job.returncode == 0, job.stderr
    assert "going on after step 1 " in job.stderr
    assert "going on after step 2 " in job.stderr and "done after step 10" in job.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "rate" in line] == list(range(2, 11))
