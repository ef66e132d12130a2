"""The same network by Hugging Face's Accelerate, which brings device, precision and processes; the loader stays ours.

    pip install accelerate
    accelerate launch examples/with_accelerate.py --shards build/demo/shards --out build/accelerate

Not `prepare(loader)`: the loader divides each batch among the processes itself, and its state goes into the checkpoint.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from own_network import make_network, parse_options

from dali_pipelines import DataConfig, Loader
from sharding import ShardSet


def main() -> None:
    """Train for some epochs, and save after each of them."""
    options = parse_options(__doc__.splitlines()[0])
    accelerator = Accelerator()
    shards = ShardSet.open(options.shards / "train")
    config = DataConfig(recipe="paper", batch_size=options.batch_size, normalize="imagenet")
    loader = Loader(shards, config, accelerator.process_index, accelerator.num_processes)
    torch.manual_seed(0)
    network = make_network(len(shards.classes))
    model, optimizer = accelerator.prepare(network, torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9))
    accelerator.register_for_checkpointing(loader)  # it has state_dict and load_state_dict
    if options.out.exists():
        accelerator.load_state(str(options.out))

    while loader.state_dict()["epoch"] < options.epochs:
        for batch in loader:
            images = batch.images.to(accelerator.device, non_blocking=True)
            labels = batch.labels.to(accelerator.device, non_blocking=True)
            loss = F.cross_entropy(model(images), labels, reduction="sum") / batch.samples
            optimizer.zero_grad()
            accelerator.backward(loss * accelerator.num_processes)
            optimizer.step()
            step = f"epoch {batch.epoch + 1}, step {batch.step + 1} of {len(loader)}"
            accelerator.print(f"{step}: loss {loss.item():.4f}")
        accelerator.save_state(str(options.out))


if __name__ == "__main__":
    main()
