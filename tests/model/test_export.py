"""The exported file: its tensors and metadata, the documentation's lines that use it alone, and what is refused."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from model import AlexNet, ModelConfig
from model.__main__ import main
from model.checkpoint import save_checkpoint
from model.export import pytorch_calls
from tests.handmade import checkpoint_state

CLASSES = [[0, "n01440764", "tench"], [1, "n01443537", "Käfer, goldfish"], [2, "n09", "cliff"]]

# The page's only Python. It may use nothing of this project.
PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
(SNIPPET,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def make_run(folder: Path, recipe: str) -> tuple[AlexNet, np.ndarray]:
    """A run whose last checkpoint holds a narrow network, with weights large enough to tell classes apart."""
    config = ModelConfig(recipe=recipe, classes=3, width=0.125)
    net = AlexNet(config, seed=4).eval()
    with torch.no_grad():
        net.fc8.weight.mul_(20)
    mean = np.random.default_rng(0).uniform(90, 130, (256, 256, 3))
    state = checkpoint_state(net, CLASSES, step=33)
    state["statistics"]["mean_image"] = torch.from_numpy(mean)
    save_checkpoint(folder / "checkpoints" / "last.pt", state)
    return net, mean


def run_snippet(*arguments: Path) -> list[str]:
    """What the lines print, run in an empty place where this project cannot be imported."""
    command = [sys.executable, "-I", "-c", SNIPPET, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=arguments[0].parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_the_documented_lines_classify_as_the_network_does(recipe: str, tmp_path: Path) -> None:
    net, mean = make_run(tmp_path / "run", recipe)
    pixels = np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "net.safetensors")]) == 0

    crop = (pixels - mean)[16:240, 16:240].transpose(2, 0, 1)[None]
    with torch.no_grad():
        probabilities = net(torch.from_numpy(crop).float()).softmax(1)[0].numpy()
    order = np.argsort(-probabilities)
    assert probabilities.max() - probabilities.min() > 0.1

    lines = [line.split(" ", 1) for line in run_snippet(tmp_path / "net.safetensors", tmp_path / "picture.png")]
    assert [name for _, name in lines] == [CLASSES[label][2] for label in order]
    np.testing.assert_allclose([float(number) for number, _ in lines], probabilities[order], atol=2e-4)


def test_the_file_holds_weights_mean_image_and_checksums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, mean = make_run(tmp_path / "run", "original")
    target = tmp_path / "new" / "net.safetensors"
    assert main(["export", str(tmp_path / "run"), str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    with safe_open(target, "pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert set(tensors) == {*net.state_dict(), "mean_image"}
    assert all(torch.equal(tensors[name], value) for name, value in net.state_dict().items())
    np.testing.assert_array_equal(tensors["mean_image"].numpy(), mean.astype(np.float32))
    sums = json.loads(about["tensor_sha256"])
    assert sums == {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() for name, tensor in tensors.items()
    }
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    assert about["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert json.loads(about["classes"]) == CLASSES
    expected = {"recipe": "original", "width": "0.125", "data_fingerprint": "f00d"}
    expected |= {"epoch": "3", "step": "33", "format": "pt"}
    assert {name: about[name] for name in expected} == expected
    assert sorted(path.name for path in target.parent.iterdir()) == ["net.safetensors"]


@pytest.mark.parametrize(
    ("recipe", "padding", "norms"),
    [
        ("original", [0, 3, 0, 3], [(5, 0.0001, 2.0), (5, 0.0001, 2.0), (25, 0.001, 1.0)]),  # layer-params-145-2010.cfg
        ("paper", [2, 2, 2, 2], [(5, 0.0005, 2.0), (5, 0.0005, 2.0)]),  # §3.3
    ],
)
def test_each_recipes_numbers_are_its_own(
    recipe: str, padding: list[int], norms: list[tuple[int, float, float]], tmp_path: Path
) -> None:
    make_run(tmp_path / "run", recipe)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "net.safetensors")]) == 0
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        calls = json.loads(file.metadata()["layers"])
    assert calls[0] == ["pad", {"pad": padding}]
    found = [options for name, options in calls if name == "local_response_norm"]
    assert [(norm["size"], norm["alpha"], norm["k"]) for norm in found] == norms


@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_pytorchs_calls_give_the_networks_logits(recipe: str) -> None:
    config = ModelConfig(recipe=recipe, classes=7, width=0.13)
    net = AlexNet(config, seed=1).double().eval()
    weights = net.state_dict()
    images = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 70
    x = images
    for name, options in pytorch_calls(config):
        given = {key: weights[value] if isinstance(value, str) else value for key, value in options.items()}
        x = getattr(torch.nn.functional, name, getattr(torch.Tensor, name, None))(x, **given)
    with torch.no_grad():
        expected = net(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


def test_the_readme_needs_ten_lines() -> None:
    assert len([line for line in SNIPPET.splitlines() if line]) == 10


def test_mistakes_get_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), str(tmp_path / "net.safetensors")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "has no checkpoint" in error
    make_run(tmp_path / "run", "paper")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "net.safetensors"), "--checkpoint", "best"]) == 1
    assert "best.pt" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "run"), str(tmp_path / "net.pt")])
    assert stop.value.code == 2
    assert "ends in .safetensors" in capsys.readouterr().err
    assert not list(tmp_path.glob("net.*"))


def test_a_network_that_diverged_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run", "paper")
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    state["model"]["conv3.bias"][0] = float("nan")
    save_checkpoint(path, state)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "net.safetensors")]) == 1
    assert "model.conv3.bias is NaN or infinite numbers" in capsys.readouterr().err
    assert not (tmp_path / "net.safetensors").exists()
