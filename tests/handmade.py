"""Runs made by hand for the tests of evaluation and report: small packed splits and a checkpoint, no training."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from evaluation.views import pixels_of
from model import AlexNet, ModelConfig, make_optimizer, make_schedule
from model.checkpoint import FORMAT, save_checkpoint, versions
from sharding import PackOptions, ShardSet, pack
from training.checkpoints import as_tensors
from training.config import TrainConfig

WIDTH = 1 / 16


def write_pictures(folder: Path, split: str, classes: int, images: int, seed: int) -> None:
    """`folder/<split>/class-<c>/*.png`: crops of scikit-learn's two photographs, in turn over the classes."""
    photographs, random = load_sample_images().images, np.random.default_rng(seed)
    for number in range(images):
        label = number % classes
        height, width = random.integers(256, 321, size=2)
        top, left = random.integers(0, 427 - height + 1), random.integers(0, 640 - width + 1)
        crop = photographs[label % 2][top : top + height, left : left + width]
        tinted = np.clip(crop * (0.5 + 0.1 * label), 0, 255).astype(np.uint8)
        target = folder / split / f"class-{label}" / f"{number:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tinted).save(target)


def pack_splits(folder: Path, *, classes: int, train: int, val: int, encoding: str) -> Path:
    """A folder of packed splits train/ and val/ with so many classes and images."""
    write_pictures(folder / "source", "train", classes, train, seed=1)
    write_pictures(folder / "source", "val", classes, val, seed=2)
    pack(
        PackOptions(source=folder / "source", out=folder / "shards", encoding=encoding, samples_per_shard=8, workers=1)
    )
    return folder / "shards"


def fixed_network(config: ModelConfig, pixels: np.ndarray) -> AlexNet:
    """Weights from seed 3, fc8 scaled: over the centers of `pixels` [n, 256, 256, 3] each logit has mean 0, spread 2.

    So answers differ between images, and between views: a wrong crop, mean or mirror shows.
    """
    network = AlexNet(config, seed=3).eval()
    crops = torch.from_numpy(pixels[:, 16:240, 16:240].transpose(0, 3, 1, 2).astype(np.float32)) - 100
    with torch.no_grad():
        logits = network(crops)
        scale = 2 / logits.std(dim=0)
        network.fc8.weight.mul_(scale[:, None])
        network.fc8.bias.copy_(-logits.mean(dim=0) * scale)
    return network


def checkpoint_state(network: AlexNet, classes: list[list[Any]] | None = None, **changes: object) -> dict[str, Any]:
    """What a checkpoint of `network` after three epochs holds, valid in all its parts; `changes` to it."""
    config = network.config
    options = TrainConfig(
        shards=Path("shards"), run_dir=Path("run"), recipe=config.recipe, width=config.width, batch_size=4, epochs=3
    )
    random = np.random.default_rng(0)
    mean = random.uniform(90, 130, (256, 256, 3))
    statistics = {
        "mean_image": mean, "rgb_mean": mean.mean(axis=(0, 1)), "rgb_covariance": np.diag([3.0, 2.0, 1.0]),
        "eigenvalues": np.array([3.0, 2.0, 1.0]), "eigenvectors": np.eye(3), "images": 13,
    }  # fmt: skip
    state = {
        "format": FORMAT,
        "model": network.state_dict(),
        "optimizer": make_optimizer(network, config.recipe).velocities(),
        "statistics": as_tensors(statistics),
        "schedule": make_schedule(config.recipe, 3).state_dict(),
        "epoch": 3,
        "step": 9,
        "best": 0.5,
        "train_config": options.to_dict(),
        "data_config": {"recipe": config.recipe, "batch_size": 4},
        "model_config": dataclasses.asdict(config),
        "dataset": {
            "fingerprint": "f00d",
            "samples": 13,
            "shards": "shards",
            "classes": classes or [[label, f"n{label:08}", f"class {label}"] for label in range(config.classes)],
        },
        "versions": versions(),
    }
    return state | changes


def make_run(folder: Path, shards: Path, recipe: str = "original", **changes: object) -> Path:
    """A run's folder: last.pt of `fixed_network`, config.json, and metrics of three epochs. `changes` to the state."""
    with ShardSet.open(shards / "train") as train:
        config = ModelConfig(recipe=recipe, classes=len(train.classes), width=WIDTH)
        options = TrainConfig(shards=shards, run_dir=folder, recipe=recipe, width=WIDTH, batch_size=4, epochs=3)
        network = fixed_network(config, pixels_of(train, np.arange(min(16, len(train)))))
        statistics = {item.name: getattr(train.statistics, item.name) for item in dataclasses.fields(train.statistics)}
        state = checkpoint_state(
            network,
            train_config=options.to_dict(),
            dataset={
                "fingerprint": train.fingerprint,
                "samples": len(train),
                "shards": str(shards),
                "classes": [[entry.label, entry.wnid, entry.name] for entry in train.classes],
            },
            statistics=as_tensors(statistics),
            step=3 * (len(train) // 4),
        )
    save_checkpoint(folder / "checkpoints" / "last.pt", state | changes)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics(state["step"] // 3)))
    return folder


def metrics(steps_per_epoch: int, epochs: int = 3) -> list[dict[str, object]]:
    """The lines of a metrics.jsonl."""
    lines: list[dict[str, object]] = []
    for epoch in range(epochs):
        for step in range(epoch * steps_per_epoch + 1, (epoch + 1) * steps_per_epoch + 1):
            lines.append(
                {
                    "step": step,
                    "epoch": epoch + 1,
                    "loss": 2 / step,
                    "top1_error": 1 / step,
                    "top5_error": 0.5 / step,
                    "rate": 0.01 / 10**epoch,
                    "images_per_second": 100.0 + step,
                    "data_wait_fraction": 0.01,
                }
            )
        figures = {"loss": 1.5 / (epoch + 1), "top1_error": 0.6 / (epoch + 1), "top5_error": 0.1, "images": 13}
        lines.append({"step": (epoch + 1) * steps_per_epoch, "epoch": epoch + 1, "validation": figures})
    return lines
