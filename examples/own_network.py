"""Any network on packed shards: a plain loop, on one process or under torchrun, that goes on where it was stopped.

    python examples/own_network.py --shards build/demo/shards --out own.pt
    torchrun --standalone --nproc-per-node 2 examples/own_network.py --shards build/demo/shards --out own.pt

Enters: a folder with train/. Leaves: one file with the network's weights, the optimizer's state and the loader's place.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.files import write_atomically
from dali_pipelines import DataConfig, Loader
from sharding import ShardSet


def make_network(classes: int) -> nn.Sequential:
    """Four convolutions, each halving the picture, and a linear layer: 3×224×224 in, logits out."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def parse_options(description: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shards", type=Path, required=True, help="folder with train/, as `make shards` writes it")
    parser.add_argument("--out", type=Path, required=True, help="what to save to, and to go on from")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64, help="images of a step, over all processes")
    return parser.parse_args()


def main() -> None:
    """Train for some epochs, and save after each step."""
    options = parse_options(__doc__.splitlines()[0])
    distributed = torch.distributed.is_torchelastic_launched()
    if distributed:
        torch.distributed.init_process_group("gloo")  # "nccl", and a device each, where there are GPUs
    shards = ShardSet.open(options.shards / "train")
    # images as torchvision's networks take them; the loader asks torch.distributed which part of a batch is its own
    loader = Loader(shards, DataConfig(recipe="paper", batch_size=options.batch_size, normalize="imagenet"))
    torch.manual_seed(0)
    network = make_network(len(shards.classes))
    model = DistributedDataParallel(network) if distributed else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    if options.out.exists():
        saved = torch.load(options.out, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])

    while loader.state_dict()["epoch"] < options.epochs:
        for batch in loader:
            # shares of a batch may differ by one: each rank's sum over the whole batch's size, and DDP's mean undone
            loss = F.cross_entropy(model(batch.images), batch.labels, reduction="sum") / batch.samples
            optimizer.zero_grad()
            (loss * loader.data_world).backward()
            optimizer.step()
            if loader.data_rank == 0:
                print(f"epoch {batch.epoch + 1}, step {batch.step + 1} of {len(loader)}: loss {loss.item():.4f}")  # noqa: T201
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
                with write_atomically(options.out) as file:
                    torch.save(state | {"loader": loader.state_dict()}, file)
    if distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
