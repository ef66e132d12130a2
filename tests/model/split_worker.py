"""One rank of a split network, started by test_two_tower.py: reads what to do from a file, leaves what it got in one.

    python split_worker.py FOLDER RANK      FOLDER/tasks.pt → FOLDER/rank-R.pt; ranks 2d and 2d+1 are pair d

Each pair takes its part of every global batch; DistributedDataParallel averages the gradients of the pairs over the
data axis, each pair's loss weighted by its share of the batch, as train.py does it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model import DropoutKey, ModelConfig, TwoTowerAlexNet, make_optimizer, make_schedule


def groups(rank: int, world: int) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """This rank's model group {2d, 2d+1} and its data group, the ranks of the same tower."""
    pairs = [dist.new_group([first, first + 1]) for first in range(0, world, 2)]
    towers = [dist.new_group(list(range(tower, world, 2))) for tower in (0, 1)]
    return pairs[rank // 2], towers[rank % 2]


def train(
    task: dict[str, Any], rank: int, world: int, model_group: dist.ProcessGroup, data_group: dist.ProcessGroup
) -> dict[str, Any]:
    """First weights, logits, loss and gradients of each step, last weights and evaluation of this rank's tower."""
    tower = TwoTowerAlexNet(ModelConfig(**task["config"]), model_group, seed=task["seed"]).to(task["dtype"])
    start = {name: value.clone() for name, value in tower.state_dict().items()}
    net: nn.Module = tower
    if world > 2:
        net = DistributedDataParallel(tower, process_group=data_group)
    optimizer = make_optimizer(net, task["config"]["recipe"])
    schedule = make_schedule(task["config"]["recipe"], 93)
    parts = task["parts"]  # where the global batch is cut, one more than there are pairs
    part = slice(parts[rank // 2], parts[rank // 2 + 1])
    steps: list[dict[str, Any]] = []
    for step, epoch in enumerate(task["epochs"]):
        schedule.apply(optimizer, epoch)
        optimizer.zero_grad()
        images, labels, ids = (task[name][step][part] for name in ("images", "labels", "ids"))
        logits = net(images, DropoutKey(task["seed"], step, ids))
        total = F.cross_entropy(logits, labels, reduction="sum") / task["labels"].shape[1]
        (total * (world // 2)).backward()
        gradients = {name: value.grad.clone() for name, value in tower.named_parameters() if value.grad is not None}
        steps.append({"logits": logits.detach(), "loss": total.detach(), "gradients": gradients})
        optimizer.step()
    tower.eval()
    with torch.no_grad():
        evaluation: dict[str, Tensor] = {
            "logits": tower(task["images"][0]),
            "features": tower.features(task["images"][0]),
            "empty": tower(task["images"][0][:0]),
        }
    velocities = {name: value.clone() for name, value in optimizer.velocities().items()}
    return {
        "start": start,
        "steps": steps,
        "weights": tower.state_dict(),
        "velocities": velocities,
        "evaluation": evaluation,
    }


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    world, tasks = torch.load(folder / "tasks.pt", weights_only=True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        both = groups(rank, world)
        torch.save([train(task, rank, world, *both) for task in tasks], folder / f"rank-{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
