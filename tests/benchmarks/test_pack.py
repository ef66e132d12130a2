"""The pack benchmark runs, its cases do the same pictures, and its seed's way is the seed's to the bit."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import pack as benchmark
from benchmarks.data import repeat
from benchmarks.pack import seed
from sharding import ShardSet

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("benchmarks")]  # one fork server for all of them


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "CORES", 1)  # worker processes have tests of their own
        benchmark.run(quick=True).publish("pack", True, out)
    return out


def test_every_case_packs_the_same_pictures(written: Path) -> None:
    document = json.loads((written / "pack.json").read_text())
    names = ["the seed's way", "ours", "ours, lanczos", "ours, raw"]
    assert [row["name"] for row in document["rows"]] == names
    assert [{repeat["images"] for repeat in row["repeats"]} for row in document["rows"]] == [{24}] * 4
    assert document["headlines"][0]["beside"].keys() == {"× the seed's way"}
    assert "| the seed's way |" in (written / "pack.md").read_text()
    assert (written / "pack.png").stat().st_size > 1000


def test_the_seeds_way_gives_the_published_pictures(imagenet2010: Path, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.iterdir())[:12]
    source = tmp_path / "source"
    source.mkdir()
    for file in files:
        (source / file.name).symlink_to(file)
    assert seed(source, tmp_path / "seed").images == 12
    for file in files:
        made, published = (
            Image.open(tmp_path / "seed" / file.name),
            Image.open(imagenet2010 / "reference-256" / file.name),
        )
        assert (np.asarray(made) == np.asarray(published)).all(), file.name


def test_the_command_packs_what_it_says(photos: Path, tmp_path: Path) -> None:
    repeated = repeat(sorted(photos.iterdir())[:5], 10, tmp_path / "repeated")
    assert benchmark.ours(repeated, tmp_path / "command").images == 10
    with ShardSet.open(tmp_path / "command" / "train") as shards:
        assert len(shards) == 10
