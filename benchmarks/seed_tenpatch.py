"""The seed's ten-patch evaluation, for comparison: encoded images in, their five best classes and mean logits out.

After `val_acc_multi.py` of github AsteroidHunter/replicatingAlexNet: Pillow reads one image at a time, the mean is
subtracted from the whole image ten times, each view is cut and mirrored on its own, logits are averaged, and the
processes of a pool do all of this, the network included. There the network is sent to them with every batch; here
each loads it once.
"""

import io

import numpy as np
import torch
from PIL import Image

from model import AlexNet, ModelConfig

SEED = 0
CROP = 224
CORNERS = ((0, 0), (0, 32), (32, 32), (32, 0), (16, 16))

_worker: tuple[AlexNet, torch.Tensor]


def start_worker(config: ModelConfig, mean_image: np.ndarray) -> None:
    """Give a process of the pool its network and the mean image float [256, 256, 3]."""
    global _worker
    torch.set_num_threads(1)
    mean = torch.from_numpy(mean_image.astype(np.float32)).permute(2, 0, 1)
    _worker = AlexNet(config, seed=SEED).eval(), mean


def answers(encoded: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The five best classes [n, 5] and the mean logits [n, classes] of n images, 256×256 JPEG files."""
    network, mean = _worker
    views = torch.vstack([ten_views(content, mean) for content in encoded])
    with torch.inference_mode():
        logits = network(views).unflatten(0, (-1, 2 * len(CORNERS))).mean(dim=1)
    return logits.topk(min(5, logits.shape[1]), dim=1).indices.numpy(), logits.numpy()


def ten_views(content: bytes, mean: torch.Tensor) -> torch.Tensor:
    """float32 [10, 3, 224, 224] of one image, cut one by one."""
    with Image.open(io.BytesIO(content)) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    views = []
    for top, left in CORNERS:
        for mirrored in (True, False):
            view = (pixels - mean)[:, top : top + CROP, left : left + CROP]
            views.append(torch.flip(view, dims=(2,)) if mirrored else view)
    return torch.stack(views)
