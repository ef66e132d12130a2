"""The options of training: a command line in, a checked `TrainConfig` out, and from there into run and checkpoint.

Each field is an option: its name, type, default and help make the command line; `least`, `above` and `most` bound its
value. Fields marked as identity say which training this is; a run goes on only with the same ones. The others may
change from one start to the next.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from common.command_line import check_options, flag, option

BASE_BATCH_SIZE = 128  # Krizhevsky 2012 §5: the batch size that the recipes' rates are for
MOST_SEED = 2**63 - 1  # torch's and DALI's generators take signed 64 bits
MOST_WIDTH = 1e12  # a layer's size is a signed 64-bit number too; memory ends long before
MOST_TIMEOUT_SECONDS = 1e6  # torch's clocks count milliseconds in fewer bits than a float can hold
# Parts that can be left out: of the network (`model.alexnet.ABLATIONS`, whose import would take seconds before --help),
# then of the augmentation (mirrors stay).
NETWORK_ABLATIONS = ("norms", "overlap", "columns", "dropout", "conv3", "conv4", "conv5")
ABLATIONS = (*NETWORK_ABLATIONS, "color", "crops")
RATE_EXPONENT = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of one training. Raises ValueError, naming option and value, for values that cannot work."""

    shards: Path = option("folder with train/ and perhaps val/ (made by: make shards)")
    run_dir: Path = option("folder for this run's checkpoints and metrics")
    recipe: Literal["original", "paper"] = option("what differs between program and paper", "original", identity=True)
    width: float = option("scale of every layer's width", 1.0, identity=True, above=0, most=MOST_WIDTH)
    epochs: int = option("passes over the training images", 90, identity=True, least=1)
    schedule: Literal["first", "second"] = option(
        "recipe original: rates of its 93 epochs, or of its 135, whose rate was raised again", "first", identity=True
    )
    plateau: Literal["top1", "top5"] = option(
        "recipe paper: the validation error that lowers the rate when it stops improving", "top1", identity=True
    )
    patience: int | None = option(
        "recipe paper: epochs without an improvement that are borne; none: 8 in 90", None, identity=True, least=1
    )
    max_steps: int | None = option("stop after so many steps in all", None, least=1)
    batch_size: int = option("images a step, over all processes", BASE_BATCH_SIZE, identity=True, least=1)
    accumulate: int = option("passes a step is divided into, where memory is short", 1, least=1)
    seed: int = option("of weights, order, augmentation and dropout", 0, identity=True, least=0, most=MOST_SEED)
    device: Literal["auto", "cpu", "cuda"] = option("auto: the GPUs if there are any", "auto")
    model_parallel: Literal["auto", "1", "2"] = option(
        "processes that share one network; auto: 2 where their number is even", "auto"
    )
    window: int | None = option("shards shuffled together; none: all", None, identity=True, least=1)
    resume_from: Path | None = option("go on from this checkpoint, not from last.pt", None)
    checkpoint_minutes: float = option("a checkpoint at least so often; 0: after every step", 10.0, least=0)
    keep_every: int = option("keep the checkpoint of every n-th epoch; 0: of none", 10, least=0)
    log_every: int = option("steps from one line of metrics.jsonl to the next", 1, least=1)
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = option(
        "tf32: a GPU's convolutions and matrix products; bfloat16: mixed; auto: tf32 on a GPU", "auto", identity=True
    )
    decode: Literal["gpu", "cpu"] = option("what decodes JPEG for a GPU; cpu: its cores, uint8 crops travel", "gpu")
    compile: bool = option("compile the network (torch.compile)", False)
    scale_rate: Literal["none", "sqrt", "linear"] = option("how rates follow batch size / 128", "none", identity=True)
    augment: Literal["on", "off"] = option("off: the center crop, no mirror, no color", "on", identity=True)
    ablate: tuple[str, ...] = option(
        f"parts to leave out, to measure what they are worth: {', '.join(ABLATIONS)}", (), metavar="NAME", identity=True
    )
    deterministic: bool = option("only repeatable algorithms on the GPU, slower", False)
    threads: int | None = option("threads a process computes with; none: torch's choice", None, least=1)
    timeout_seconds: float | None = option(
        "how long a process waits for others; none: 300 on GPUs, else 60", None, above=0, most=MOST_TIMEOUT_SECONDS
    )
    profile: int | None = option("write a torch.profiler trace of so many steps, after a few to warm up", None, least=1)
    quiet: bool = option("print only warnings and errors", False)

    def __post_init__(self) -> None:
        check_options(self)
        if self.accumulate > self.batch_size:
            raise ValueError(f"--accumulate is at most --batch-size ({self.batch_size}), got {self.accumulate}")
        defaults = {item.name: item.default for item in fields(self)}
        for name, recipe in (("schedule", "original"), ("plateau", "paper"), ("patience", "paper")):
            if getattr(self, name) != defaults[name] and self.recipe != recipe:
                raise ValueError(f"{flag(name)} belongs to --recipe {recipe}, got --recipe {self.recipe}")
        unknown = sorted(set(self.ablate).difference(ABLATIONS))
        if unknown:
            raise ValueError(f"--ablate takes {', '.join(ABLATIONS)}; got {', '.join(unknown)}")
        object.__setattr__(self, "ablate", tuple(name for name in ABLATIONS if name in self.ablate))
        missing = [name for name in ("color", "crops") if name in self.ablate and self.augment == "off"]
        if missing:
            raise ValueError(f"--augment off leaves no {' and no '.join(missing)} for --ablate to leave out")
        if "columns" in self.ablate:
            if self.model_parallel == "2":
                raise ValueError("--ablate columns makes a network of one column: it needs --model-parallel 1, got 2")
            object.__setattr__(self, "model_parallel", "1")

    @property
    def rate_scale(self) -> float:
        """What the recipe's rates are multiplied by for this batch size."""
        return float((self.batch_size / BASE_BATCH_SIZE) ** RATE_EXPONENT[self.scale_rate])

    def to_dict(self) -> dict[str, Any]:
        """All fields, paths as text: for JSON and checkpoints."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    def identity(self) -> dict[str, Any]:
        """The fields that say which training this is."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.metadata.get("identity")}
