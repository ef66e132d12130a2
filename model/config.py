"""The options of training: a command line in, a checked `TrainConfig` out, and from there into run and checkpoint.

Each field is an option: its name, type, default and help make the command line. Fields marked as identity say
which training this is; a run goes on only with the same ones. The others may change from one start to the next.
"""

import argparse
import sys
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

BASE_BATCH_SIZE = 128  # Krizhevsky 2012 §5: the batch size that the recipes' rates are for
MOST_SEED = 2**63 - 1  # torch's and DALI's generators take signed 64 bits
MOST_WIDTH = 1e12  # a layer's size is a signed 64-bit number too; memory ends long before
MOST_TIMEOUT_SECONDS = 1e6  # torch's clocks count milliseconds in fewer bits than a float can hold
RATE_EXPONENT = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


def _about(text: str, *, identity: bool = False) -> dict[str, Any]:
    """A field's metadata: its help, and whether it says which training this is."""
    return {"help": text, "identity": identity}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of one training. Raises ValueError, naming option and value, for values that cannot work."""

    shards: Path = field(metadata=_about("folder with train/ and perhaps val/ (made by: make shards)"))
    run: Path = field(metadata=_about("folder for this run's checkpoints and metrics"))
    recipe: Literal["original", "paper"] = field(
        default="original", metadata=_about("what differs between program and paper", identity=True)
    )
    width: float = field(default=1.0, metadata=_about("scale of every layer's width", identity=True))
    epochs: int = field(default=90, metadata=_about("passes over the training images", identity=True))
    max_steps: int | None = field(default=None, metadata=_about("stop after so many steps in all"))
    batch_size: int = field(
        default=BASE_BATCH_SIZE, metadata=_about("images a step, over all processes", identity=True)
    )
    accumulate: int = field(default=1, metadata=_about("passes a step is divided into, where memory is short"))
    seed: int = field(default=0, metadata=_about("of weights, order, augmentation and dropout", identity=True))
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=_about("auto: the GPUs if there are any"))
    model_parallel: Literal["auto", "1", "2"] = field(
        default="auto", metadata=_about("processes that share one network; auto: 2 where their number is even")
    )
    window: int | None = field(default=None, metadata=_about("shards shuffled together; none: all", identity=True))
    resume: Literal["never", "auto"] = field(
        default="never", metadata=_about("auto: go on from the run's last checkpoint")
    )
    resume_from: Path | None = field(default=None, metadata=_about("go on from this checkpoint, not from last.pt"))
    checkpoint_minutes: float = field(
        default=10.0, metadata=_about("a checkpoint at least so often; 0: after every step")
    )
    keep_every: int = field(default=10, metadata=_about("keep the checkpoint of every n-th epoch; 0: of none"))
    log_every: int = field(default=1, metadata=_about("steps from one line of metrics.jsonl to the next"))
    precision: Literal["float32", "bfloat16"] = field(
        default="float32", metadata=_about("bfloat16: forward pass in mixed precision", identity=True)
    )
    compile: bool = field(default=False, metadata=_about("compile the network (torch.compile)"))
    scale_rate: Literal["none", "sqrt", "linear"] = field(
        default="none", metadata=_about("adapt the rates to a batch that is not 128", identity=True)
    )
    augment: Literal["on", "off"] = field(
        default="on", metadata=_about("off: the centre crop, no mirror, no colour", identity=True)
    )
    deterministic: bool = field(default=False, metadata=_about("only repeatable algorithms on the GPU, slower"))
    threads: int | None = field(default=None, metadata=_about("threads a process computes with; none: torch's choice"))
    timeout_seconds: float = field(
        default=60.0, metadata=_about("how long a process waits for the others before it gives up")
    )

    def __post_init__(self) -> None:
        for name, choices in _choices().items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{_flag(name)} is one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("epochs", "max_steps", "batch_size", "accumulate", "window", "log_every", "threads"):
            self._at_least(name, 1)
        for name in ("seed", "keep_every", "checkpoint_minutes"):
            self._at_least(name, 0)
        for name in ("width", "timeout_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{_flag(name)} is above 0, got {getattr(self, name)}")
        for name, most in (("seed", MOST_SEED), ("width", MOST_WIDTH), ("timeout_seconds", MOST_TIMEOUT_SECONDS)):
            if getattr(self, name) > most:
                raise ValueError(f"{_flag(name)} is at most {most}, got {getattr(self, name)}")
        if self.accumulate > self.batch_size:
            raise ValueError(f"--accumulate is at most --batch-size ({self.batch_size}), got {self.accumulate}")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and not value >= least:
            raise ValueError(f"{_flag(name)} is at least {least}, got {value}")

    @property
    def rate_scale(self) -> float:
        """What the recipe's rates are multiplied by for this batch size."""
        return float((self.batch_size / BASE_BATCH_SIZE) ** RATE_EXPONENT[self.scale_rate])

    @property
    def resuming(self) -> bool:
        """Whether an earlier state is to be gone on from."""
        return self.resume == "auto" or self.resume_from is not None

    def to_dict(self) -> dict[str, Any]:
        """All fields, paths as text: for JSON and checkpoints."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    def identity(self) -> dict[str, Any]:
        """The fields that say which training this is."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.metadata.get("identity")}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _choices() -> dict[str, tuple[str, ...]]:
    hints = get_type_hints(TrainConfig)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and exit status 2."""
        sys.stderr.write(f"error: {message} ({self.prog} --help lists the options)\n")
        sys.exit(2)


def parse_arguments(arguments: Sequence[str] | None, description: str) -> TrainConfig:
    """The checked config of a command line (default: this process's). Exits with 2 and one line if it is wrong."""
    parser = _Parser(prog="train.py", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    hints = get_type_hints(TrainConfig)
    for item in fields(TrainConfig):
        parser.add_argument(_flag(item.name), **_argument(item, hints[item.name]))
    try:
        return TrainConfig(**vars(parser.parse_args(arguments)))
    except ValueError as error:
        parser.error(str(error))


def _argument(item: "Field[Any]", hint: Any) -> dict[str, Any]:
    required = item.default is MISSING
    argument: dict[str, Any] = {"help": item.metadata["help"], "required": required}
    if not required:
        argument["default"] = item.default
    if hint is bool:
        return argument | {"action": "store_true"}
    if get_origin(hint) is Literal:
        return argument | {"choices": get_args(hint)}
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    return argument | {"type": hint, "metavar": {Path: "PATH", int: "N", float: "X"}[hint]}
