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

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train.slurm"

# A train.py for the test: the first start kills a rank in step 3; the second one sends what Slurm sends, in step 6.
TRAIN = f"""
import os, signal, sys, threading
sys.path[0] = {str(ROOT)!r}
import train
from training.progress import Progress
from training.signals import StopSignals
note, restarted = Progress.note, os.path.exists("killed")
def note_and_signal(self, step):
    note(self, step)
    if not restarted and step.step == 3 and os.environ["RANK"] == "1":
        open("killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if restarted and step.step == 6 and os.environ["RANK"] == "0":
        os.kill(int(os.environ["SRUN_PID"]), signal.SIGUSR1)
        assert arrived.wait(60)
Progress.note = note_and_signal
hear, arrived = StopSignals._note, threading.Event()
def hear_and_tell(self, number, frame):
    hear(self, number, frame)
    arrived.set()
StopSignals._note = hear_and_tell
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
def cluster(tmp_path: Path) -> dict[str, str]:
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
    mine = {"TORCHRUN": f"{sys.executable} -m torch.distributed.run", "NOTES": str(tmp_path / "notes")}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return os.environ | job | mine | {"PATH": path, "OMP_NUM_THREADS": "1"}


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
    assert (
        main(
            arguments(
                run,
            )
        )
        == 0
    )
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


def test_restart_by_torchrun_does_not_take_up_another_run(arguments: Arguments, tmp_path: Path) -> None:
    """What the first start refuses, the second one refuses too, even with the same id as the torchrun of before."""
    (tmp_path / "train.py").write_text(f"import sys; sys.path[0] = {str(ROOT)!r}; import train; sys.exit(train.main())")
    run = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    launch += ["--rdzv-id=same", "--nproc-per-node=1", "--max-restarts=1", "--", "train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    statuses, files = [], []
    for steps in ("1", "2"):
        command = [*launch, *arguments(run, "--max-steps", steps)]
        job = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS)
        statuses.append(job.returncode)
        files.append({path: path.read_bytes() for path in run.rglob("*") if path.is_file()})
    assert statuses == [0, 1], job.stderr
    assert job.stderr.count("holds a run already") == 2
    assert files[0] == files[1]
    assert len(json.loads((run / "torchrun.json").read_text())) == 1


def test_restart_by_torchrun_goes_on_by_itself(arguments: Arguments, tmp_path: Path) -> None:
    """One node, two processes, one killed: without --resume the second start takes up the checkpoint of the first."""
    (tmp_path / "train.py").write_text(TRAIN.replace("step.step == 6", "False"))
    run = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command = [*launch, "--", "train.py", *arguments(run, "--checkpoint-minutes", "0")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    job = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert job.returncode == 0, job.stderr
    assert "going on after step 2" in job.stderr and "done after step 10" in job.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "rate" in line] == list(range(1, 11))
