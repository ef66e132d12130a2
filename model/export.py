"""A run's checkpoint in, one `.safetensors` file out: weights, mean image, and what is needed to use them elsewhere.

Tensors: the unsplit weights by name, float32 and contiguous, and `mean_image` float32 [256, 256, 3] RGB 0..255.
Metadata, all text: `recipe`, `width`, `ablate` (JSON list), `layers` (JSON: the network as PyTorch's own calls, see
`model.pytorch_calls`), `classes` (JSON list of [label, wnid, name]), `data_fingerprint`, `checkpoint_sha256`,
`tensor_sha256` (JSON, of each tensor's little-endian bytes), `epoch`, `step`.

    python -m model export RUN FILE.safetensors [--checkpoint last|best]
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from common.files import write_atomically
from model.alexnet import ModelConfig
from model.checkpoint import find_checkpoint, load_checkpoint
from model.pytorch_calls import pytorch_calls


def export(run: Path, target: Path, name: str = "last") -> Path:
    """Write the run's `last` or `best` checkpoint to `target`, whole or not at all; returns `target`.

    Raises CheckpointError when the checkpoint is missing, damaged or does not fit, or holds a value that is no number.
    """
    source = find_checkpoint(run, name)
    checkpoint = load_checkpoint(source)
    tensors = {**checkpoint["model"], "mean_image": checkpoint["statistics"]["mean_image"]}
    tensors = {name: tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()}
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    content = save(tensors, metadata=describe(checkpoint, tensors) | {"checkpoint_sha256": digest})
    with write_atomically(target) as file:
        file.write(content)
    return target


def describe(checkpoint: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, str]:
    """The file's metadata."""
    config, dataset = ModelConfig(**checkpoint["model_config"]), checkpoint["dataset"]
    checksums = {
        name: hashlib.sha256(tensor.numpy().astype("<f4").tobytes()).hexdigest() for name, tensor in tensors.items()
    }
    return {
        "format": "pt",
        "recipe": config.recipe,
        "width": repr(config.width),
        "ablate": json.dumps(config.ablate),
        "layers": json.dumps(pytorch_calls(config)),
        "classes": json.dumps(dataset["classes"], ensure_ascii=False),
        "data_fingerprint": dataset["fingerprint"],
        "tensor_sha256": json.dumps(checksums),
        "epoch": str(checkpoint["epoch"]),
        "step": str(checkpoint["step"]),
    }
