"""The ten-patch benchmark runs, compares the same work, and names the seed's five best classes as the network does."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import data, tenpatch
from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import VIEW_OFFSETS, VIEWS
from model import AlexNet, ModelConfig

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("benchmarks")]  # one fork server for all of them


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "WORK", tmp_path_factory.mktemp("work"))
        patch.setattr(tenpatch, "CORES", 1)
        tenpatch.run(quick=True).publish("tenpatch", True, out)
    return out


def test_all_cases_do_the_same_images(written: Path) -> None:
    document = json.loads((written / "tenpatch.json").read_text())
    names = [row["name"] for row in document["rows"]]
    assert names == ["network alone, plain", "network alone, a pass a core", "ours", "the seed's way"]
    assert [{repeat["images"] for repeat in row["repeats"]} for row in document["rows"]] == [{12}] * 4
    assert all(repeat["cpu_seconds"] > 0 for row in document["rows"] for repeat in row["repeats"])
    assert (document["limit"], document["ours"]) == (names[0], names[2])
    assert (written / "tenpatch.png").stat().st_size > 1000
    assert "| the seed's way |" in (written / "tenpatch.md").read_text()


def test_our_views_are_the_seeds() -> None:
    """The decoders may differ by a few gray levels here and there; a view cut in the wrong place by tens on average."""
    config = DataConfig(recipe="paper", batch_size=4, training=False, views=VIEWS)
    order = [VIEW_OFFSETS.index(corner) + mirrored * 5 for corner in tenpatch.CORNERS for mirrored in (1, 0)]
    with data.shards(12) as shards, Loader(shards, config) as loader:
        mean = torch.from_numpy(shards.statistics.mean_image.astype(np.float32)).permute(2, 0, 1)
        ours = next(iter(loader.epoch(0))).images.unflatten(0, (-1, VIEWS))[:, order]
        encoded = [view.tobytes() for view in shards.images(range(4))]
        apart = (ours - torch.stack([tenpatch.ten_views(content, mean) for content in encoded])).abs()
    assert apart.mean() < 0.5 and apart.max() < 40


def test_the_seeds_way_is_ten_views_and_the_mean_of_logits() -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (2, 32, 32, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    mean_image = random.uniform(0, 255, (256, 256, 3))
    config = ModelConfig(recipe="paper", classes=7, width=1 / 16)
    encoded = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        encoded.append(file.getvalue())
    best, logits = tenpatch.answers(config, mean_image, encoded)
    views = []
    for picture in pictures:
        for top, left in ((0, 0), (0, 32), (16, 16), (32, 0), (32, 32)):
            view = (picture - mean_image)[top : top + 224, left : left + 224].transpose(2, 0, 1)
            views += [view, view[:, :, ::-1]]
    with torch.inference_mode():
        network = AlexNet(config, seed=0).eval()
        expected = network(torch.from_numpy(np.stack(views).astype(np.float32))).numpy().reshape(2, 10, 7).mean(axis=1)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    assert best.shape == (2, 5)
    np.testing.assert_array_equal(best, np.argsort(-logits, axis=1)[:, :5])
