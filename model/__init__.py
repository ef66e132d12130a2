"""Networks, recipes, optimizers and checkpoints. Standardized images go in; this package knows nothing of data sets."""

from model.alexnet import AlexNet, ModelConfig
from model.dropout import DropoutKey
from model.optimizer import make_optimizer
from model.schedule import make_schedule
from model.two_tower import TwoTowerAlexNet, join_state, split_state

__all__ = [
    "AlexNet",
    "DropoutKey",
    "ModelConfig",
    "TwoTowerAlexNet",
    "join_state",
    "make_optimizer",
    "make_schedule",
    "split_state",
]
