"""The update rule of 2012: momentum whose velocity holds the learning rate, weight decay on the weights only.

A network goes in, its optimizer comes out; a schedule (`model.schedule`) sets the rates.
"""

from typing import Any

import torch
from torch import Tensor, nn

from model.recipe import MOMENTUM, WEIGHT_DECAY
from model.schedule import make_schedule


class RecipeSGD(torch.optim.Optimizer):
    """v ← 0.9·v − 0.0005·ε·w − ε·∇; w ← w + v (Krizhevsky 2012 §5), with ε = the group's `lr`.

    Each group holds one parameter, its unsplit `name` (`conv1.weight`), `lr`, `weight_decay` and `rate_scale`; the
    schedule writes `lr`, already scaled. At a rate of 0 neither w nor v changes: momentum does not coast
    (`weights.cu` of the original skips the update). torch.optim.SGD has ε outside v, so that a change of rate acts
    at once on the whole velocity; here it acts on what is added from then on. State of a parameter: `velocity`.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "rate_scale": 1.0})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["velocity"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient and a rate above 0."""
        alike: dict[tuple[float, float], list[Tensor]] = {}
        for group in self.param_groups:
            updated = [parameter for parameter in group["params"] if parameter.grad is not None and group["lr"]]
            alike.setdefault((group["lr"], group["weight_decay"]), []).extend(updated)
        # All parameters of one rate at once: on a GPU a few kernels in place of four for each parameter.
        for (rate, decay), parameters in alike.items():
            if parameters:
                velocities = [self.state[parameter]["velocity"] for parameter in parameters]
                torch._foreach_mul_(velocities, MOMENTUM)
                torch._foreach_add_(velocities, [p.grad for p in parameters if p.grad is not None], alpha=-rate)
                if decay:
                    torch._foreach_add_(velocities, parameters, alpha=-rate * decay)
                torch._foreach_add_(parameters, velocities)

    def velocities(self) -> dict[str, Tensor]:
        """Each parameter's velocity under the parameter's name; the tensors themselves, not copies."""
        return {
            group["name"]: self.state[parameter]["velocity"]
            for group in self.param_groups
            for parameter in group["params"]
        }


def make_optimizer(net: nn.Module, recipe: str, rate_scale: float = 1.0) -> RecipeSGD:
    """The recipe's optimizer for `net` (unsplit, or one tower; wrapped or not), at the rates of the first epoch.

    rate_scale multiplies every rate: 1 at the recipe's batch size. Raises ValueError when it is not above 0 or finite.
    """
    if not 0.0 < rate_scale < float("inf"):
        raise ValueError(f"rate_scale is {rate_scale}, expected a finite number above 0")
    groups = [
        {
            "params": [parameter],
            "name": ".".join(name.split(".")[-2:]),  # conv1.weight, whatever wraps the network (module., _orig_mod.)
            "weight_decay": WEIGHT_DECAY if name.endswith(".weight") else 0.0,
            "rate_scale": rate_scale,
        }
        for name, parameter in net.named_parameters()
    ]
    optimizer = RecipeSGD(groups)
    make_schedule(recipe, epochs=1).apply(optimizer, 0)
    return optimizer
