"""Both recipes learn: a narrow network, scikit-learn's digits, no augmentation; from chance to a loss below 1."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from model import AlexNet, DropoutKey, ModelConfig, make_optimizer

pytestmark = pytest.mark.slow

IMAGES, BATCH = 320, 32


def digits() -> tuple[Tensor, Tensor]:
    """Images float32 [320, 3, 224, 224] minus their mean image, on the scale of 0..255, and labels int64 [320]."""
    found = load_digits()
    pixels = torch.from_numpy(found.images[:IMAGES] * (255 / 16)).float()[:, None]
    images = F.interpolate(pixels, (224, 224), mode="bilinear")
    return (images - images.mean(0)).expand(-1, 3, -1, -1), torch.from_numpy(found.target[:IMAGES]).long()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For so small a network a second thread saves little, and costs much where others use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("recipe", "steps"), [("original", 60), ("paper", 105)])
def test_the_loss_falls_from_chance_to_below_one(recipe: str, steps: int) -> None:
    images, labels = digits()
    net = AlexNet(ModelConfig(recipe=recipe, classes=10, width=1 / 16))
    optimizer = make_optimizer(net, recipe)
    generator, losses = torch.Generator().manual_seed(0), []
    for step in range(steps):
        ids = torch.randint(IMAGES, (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images[ids], DropoutKey(0, step, ids)), labels[ids])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(10), abs=0.7)  # chance
    assert sum(losses[-20:]) / 20 < 1.0
    with torch.no_grad():
        guesses = net.eval()(images[:64]).argmax(1)
    assert (guesses == labels[:64]).float().mean() > 0.85  # with the outputs halved instead of dropped
