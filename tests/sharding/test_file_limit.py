"""More shards than a process may hold files open: the soft limit rises, a hard one that is too low is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from sharding import PackOptions, ShardSet, pack
from tests.dali_pipelines.repeated import repeated

ROOT = Path(__file__).resolve().parents[2]
LIMIT, COPIES = 64, 50  # of three shards each
READ_ALL = """
import resource, sys
from sharding import ShardError, ShardSet
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[3])))
try:
    with ShardSet.open(sys.argv[1]) as shards:
        ids = range(len(shards))
        print(sum(len(view) for view in shards.images(ids)), shards.labels(ids).sum())
except ShardError as error:
    sys.exit(str(error))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.fixture(scope="module")
def many(sample_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 shards, links to three."""
    out = tmp_path_factory.mktemp("few")
    few = pack(PackOptions(source=sample_photos, out=out, samples_per_shard=15, workers=1))[0]
    return repeated(few, tmp_path_factory.mktemp("many") / "train", COPIES)


def read_all(folder: Path, soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", READ_ALL, str(folder), str(soft), str(hard)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("limit", [LIMIT, 300])
def test_a_low_soft_limit_rises_to_what_the_shards_need(many: Path, limit: int) -> None:
    shards = ShardSet.open(many)
    assert len(shards.shard_names) == 3 * COPIES > LIMIT
    expected = f"{COPIES * sum(len(view) for view in shards.images(range(40)))} {COPIES * 20}"
    result = read_all(many, limit, 4096)
    assert result.stderr == "" and result.returncode == 0
    numbers, limits = result.stdout.splitlines()
    soft, hard = map(int, limits.split())
    assert numbers == expected
    assert max(limit, 3 * COPIES + 256) < soft < 1000 and hard == 4096


def test_a_limit_with_room_stays_as_it_is(many: Path) -> None:
    result = read_all(many, 2048, 4096)
    assert result.returncode == 0 and result.stdout.splitlines()[-1] == "2048 4096"


def test_a_hard_limit_that_is_too_low_is_told_with_the_command(many: Path) -> None:
    result = read_all(many, LIMIT, LIMIT)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert f"may hold {LIMIT} files open (hard limit), the set has 150 shards" in result.stderr
    assert "ulimit -n 662" in result.stderr and f"{many}/train-" in result.stderr
