"""Workers: they die with their master, and a cluster's workers give the same bytes though one of them dies."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import distributed
import pytest

from sharding import PackOptions, ShardError, pack
from sharding.executor import PlainBar, open_executor

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

KILLED_MASTER = """
import os, signal
from sharding import PackOptions, executor, pack
def dying(bar, images):  # when the first part is packed
    os.kill(os.getpid(), signal.SIGKILL)
executor.PlainBar.update = dying
if __name__ == "__main__":
    pack(PackOptions(source={source!r}, out={out!r}, split="train", samples_per_shard=4, workers=2))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The training split packed by one worker: 24 samples in 6 shards."""
    options = {"split": "train", "samples_per_shard": 4, "workers": 1}
    return contents(pack(PackOptions(source=class_folders, out=tmp_path_factory.mktemp("whole"), **options))[0])


def test_workers_die_with_their_master_and_the_job_carries_on(
    class_folders: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "master.py").write_text(KILLED_MASTER.format(source=str(class_folders), out=str(tmp_path)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    master = subprocess.Popen([sys.executable, tmp_path / "master.py"], env=environment, stderr=subprocess.PIPE)
    _, stderr = master.communicate(timeout=60)  # returns when the last worker has closed its end of the pipe
    assert master.returncode == -signal.SIGKILL, stderr.decode()
    assert not (tmp_path / "train").exists() and (tmp_path / "train.partial").exists()
    options = {"split": "train", "samples_per_shard": 4, "workers": 2}
    assert contents(pack(PackOptions(source=class_folders, out=tmp_path, **options))[0]) == whole


def test_a_shard_in_parts_is_packed_again_after_a_kill(sample_photos: Path, tmp_path: Path) -> None:
    """40 pictures, one shard, two parts: no part that a killed job left gets into the shard."""
    script = KILLED_MASTER.replace("samples_per_shard=4, ", "").format(source=str(sample_photos), out=str(tmp_path))
    (tmp_path / "master.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    master = subprocess.run([sys.executable, tmp_path / "master.py"], env=environment, capture_output=True, timeout=60)
    assert master.returncode == -signal.SIGKILL, master.stderr.decode()
    assert (tmp_path / "train.partial").exists() and not list((tmp_path / "train.partial").glob("*.tar"))
    folders = [
        pack(PackOptions(source=sample_photos, out=out, split="train", workers=workers))[0]
        for out, workers in ((tmp_path, 2), (tmp_path / "one", 1))
    ]
    assert contents(folders[0]) == contents(folders[1])


def test_a_cluster_gives_the_same_bytes_though_a_worker_dies(
    class_folders: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = list(client.run(os.getpid).values())
        assert len(set(workers)) == 2 and os.getpid() not in workers
        real = PlainBar.update

        def killing(bar: PlainBar, images: int) -> None:
            if len(workers) == 2:
                os.kill(workers.pop(), signal.SIGKILL)
            real(bar, images)

        monkeypatch.setattr(PlainBar, "update", killing)
        options = {"split": "train", "samples_per_shard": 4, "scheduler": cluster.scheduler_address}
        (folder,) = pack(PackOptions(source=class_folders, out=tmp_path, **options))
    assert len(workers) == 1  # one was killed
    assert contents(folder) == whole


def test_no_scheduler_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharding.executor._WAIT_SECONDS", 1)
    with pytest.raises(ShardError, match=r"tcp://127.0.0.1:1: no dask scheduler with a worker answers within 1 s"):
        with open_executor(1, "tcp://127.0.0.1:1"):
            pytest.fail("it connected to nothing")
    with pytest.raises(ShardError, match="no dask scheduler"):
        with open_executor(1, "not an address"):
            pytest.fail("it connected to nothing")


def test_dask_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ShardError, match=r"--scheduler needs dask\.distributed; install it with"):
        with open_executor(1, "tcp://127.0.0.1:1"):
            pytest.fail("it worked without dask")


def test_a_worker_process_that_dies_is_told() -> None:
    with pytest.raises(ShardError, match=r"a worker process died \(out of memory\?\); what is finished is kept"):
        with open_executor(2) as (executor, slots):
            assert slots == 2 and executor.submit(abs, -3).result() == 3
            executor.submit(os._exit, 1).result()
