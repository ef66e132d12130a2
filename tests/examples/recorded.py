"""Runs an example, and writes down what its network and its loss were given: one JSON line a step, one file a rank.

    python recorded.py FOLDER STEPS EXAMPLE [OPTION …]

It dies in the step after STEPS, as if killed; a negative number lets it go to its end.
"""

import hashlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

images: list[torch.Tensor] = []


def record(folder: Path, steps: int) -> None:
    """From now on, for each call of the loss: the SHA-256 of the images that the network took, and the labels."""
    cross_entropy, taken = nn.functional.cross_entropy, 0

    def keep_images(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Sequential):  # the network itself, whatever wraps it
            images.append(arguments[0])

    def recorded(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        nonlocal taken
        if taken == steps:
            os._exit(9)
        taken += 1
        (given,) = images
        images.clear()
        pixels = given.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        line = {"images": hashlib.sha256(pixels.tobytes()).hexdigest(), "labels": labels.tolist()}
        with (folder / f"rank-{os.environ.get('RANK', '0')}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return cross_entropy(logits, labels, **options)

    register_module_forward_pre_hook(keep_images)
    nn.functional.cross_entropy = recorded


if __name__ == "__main__":
    record(Path(sys.argv[1]), int(sys.argv[2]))
    sys.argv = sys.argv[3:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
