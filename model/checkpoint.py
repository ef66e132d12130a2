"""Checkpoints: the unsplit state of a run in, one file out, and back, whole or not at all.

A file holds the unsplit layout whatever the number of ranks that wrote it: `{"format", "model": {name: tensor},
"optimizer": {name: velocity}, "statistics", "schedule", "epoch", "step", "best", "train_config", "data_config",
"model_config", "dataset", "versions"}`. It is read with `weights_only=True`, after its checksums, since torch itself
does not compare those. In `<run>/checkpoints`:

    last.pt        the newest state; its predecessor stays as previous.pt, and is used only when asked for
    best.pt        the state of the lowest validation error
    epoch-0010.pt  every n-th epoch
    replaced.pt    the last.pt in whose place --resume-from put another
"""

import contextlib
import pickle
import platform
import shutil
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError, first_line
from common.files import hardlink, sync_folder, write_atomically
from model.alexnet import AlexNet, ModelConfig, Towers
from model.schedule import make_schedule

FORMAT = 2
_TENSORS = ("model", "optimizer", "statistics")
_STATE = ("schedule", "epoch", "step", "best")
_DESCRIPTION = ("format", "train_config", "data_config", "model_config", "dataset", "versions")
KEYS = frozenset(_TENSORS + _STATE + _DESCRIPTION)
STATISTICS_SHAPES = {
    "mean_image": (256, 256, 3), "rgb_mean": (3,), "rgb_covariance": (3, 3), "eigenvalues": (3,),
    "eigenvectors": (3, 3), "images": (),
}  # fmt: skip
FOLDER = "checkpoints"
LAST, PREVIOUS, BEST, REPLACED = "last.pt", "previous.pt", "best.pt", "replaced.pt"


class CheckpointError(UserError):
    """A checkpoint is missing, torn, foreign or cannot be written; the message names the file and the cause."""


def versions() -> dict[str, str]:
    """What computes here: Python and the packages that numbers depend on."""
    known = {"python": platform.python_version()}
    for name in ("torch", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            known[name] = metadata.version(name)
    return known


def save_checkpoint(path: Path, state: dict[str, Any], *names: str) -> None:
    """Write `state` (the keys of `KEYS`) so that `path` holds either all of it or what it held before.

    `names`: other names in the folder, which it gets first. Raises CheckpointError if it cannot, as on a full disk.
    """
    wrong = KEYS.symmetric_difference(state)
    if wrong:
        raise CheckpointError(f"a checkpoint has the keys {sorted(KEYS)}; missing or unknown: {sorted(wrong)}")
    try:
        with write_atomically(path, *names) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise CheckpointError(
            f"cannot write {path} ({first_line(error)}); {free:,} bytes are free there. "
            "What stood there before is intact: make room, then give the same command again"
        ) from error


def replace_checkpoint(source: Path, path: Path) -> None:
    """Put the checkpoint `source` in the place of `path`, which stays as replaced.pt (and may have been `source`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.samefile(source):
        return
    incoming = path.with_name("incoming.part")
    hardlink(source, incoming)
    if path.exists():
        hardlink(path, path.with_name(REPLACED))
    incoming.replace(path)
    sync_folder(path.parent)


def finish_save(path: Path) -> bool:
    """Whether `path` is there; it is put there if a kill came just before. What other kills left half-written goes."""
    for part in path.parent.glob("*.part"):
        first_save = not path.is_file() and part.name.startswith(path.name)
        if first_save and any(part.samefile(other) for other in path.parent.glob("*.pt")):
            part.replace(path)
            sync_folder(path.parent)
        else:
            part.unlink()
    return path.is_file()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, tensors on the CPU. Raises CheckpointError naming the file and what is wrong with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            torn = archive.testzip()
        if torn:
            raise CheckpointError(f"{path} is damaged: the checksum of its part {torn} does not fit")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint {path}; train first, or give another file") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is cut short or no checkpoint: {first_line(error)}") from error
    except (RuntimeError, pickle.UnpicklingError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no checkpoint of this program: {first_line(error)}") from error
    if not isinstance(state, dict) or "format" not in state:
        raise CheckpointError(f"{path} is no checkpoint of this program: it has no format number")
    if state["format"] != FORMAT:
        found = f"checkpoint format {state['format']!r}"
        raise CheckpointError(f"{path} has {found}, this program reads {FORMAT} (0.1 wrote 1)")
    missing = KEYS.difference(state)
    if missing:
        raise CheckpointError(f"{path} is no checkpoint of this program: it lacks {', '.join(sorted(missing))}")
    try:
        _check_description(state)
        _check_tensors(state)
    except ValueError as error:
        raise CheckpointError(f"{path} is no valid checkpoint: {error}") from error
    return state


def _check_description(state: dict[str, Any]) -> None:
    """Raise ValueError naming the first field beside the tensors that is not as this program writes it."""
    for name in (*_TENSORS, "schedule", *_DESCRIPTION[1:]):
        _expect(isinstance(state[name], dict), name, state[name], "a dict")
    for name in ("epoch", "step"):
        _expect(_is_count(state[name]), name, state[name], "an integer from 0")
    best = state["best"]
    _expect(best is None or (isinstance(best, float) and 0 <= best <= 1), "best", best, "None or an error rate 0..1")
    try:
        model = ModelConfig(**state["model_config"])
        make_schedule(model.recipe, 1).load_state_dict(state["schedule"])
        in_range = all(isinstance(value, str) or value >= 0 for value in state["schedule"].values())
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"model_config or schedule cannot be used: {type(error).__name__}: {error}") from error
    _expect(in_range, "schedule", state["schedule"], "the recipe's name and numbers from 0")
    dataset, options = state["dataset"], state["train_config"]
    rows = dataset.get("classes")
    _expect(isinstance(rows, list) and all(map(_is_class, rows)), "dataset.classes", rows, "rows [label, wnid, name]")
    labels = sorted(row[0] for row in rows)
    _expect(labels == list(range(model.classes)), "dataset.classes", labels, f"the labels 0..{model.classes - 1}")
    fields = {
        "dataset.fingerprint": isinstance(dataset.get("fingerprint"), str),
        "dataset.shards": isinstance(dataset.get("shards"), str),
        "dataset.samples": _is_count(dataset.get("samples")),
        "train_config.recipe": options.get("recipe") == model.recipe,
        "train_config.batch_size": _is_count(options.get("batch_size")) and options["batch_size"] > 0,
        "train_config.epochs": _is_count(options.get("epochs")) and options["epochs"] > 0,
        "train_config.seed": _is_count(options.get("seed")),
        "train_config.augment": options.get("augment") in ("on", "off"),
        "train_config.window": options.get("window") is None or _is_count(options["window"]),
    }
    for name, valid in fields.items():
        part, _, key = name.partition(".")
        _expect(valid, name, state[part].get(key), "what train.py writes there")


def _check_tensors(state: dict[str, Any]) -> None:
    """Raise ValueError naming the first tensor that the checkpoint's network, or its statistics, cannot hold."""
    model = ModelConfig(**state["model_config"])
    try:
        with torch.device("meta"):
            shapes = {name: tuple(value.shape) for name, value in Towers(model, model.towers).state_dict().items()}
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"model_config {state['model_config']} makes no network: {first_line(error)}") from error
    for part, expected in (("model", shapes), ("optimizer", shapes), ("statistics", STATISTICS_SHAPES)):
        tensors = state[part]
        odd = sorted(map(str, expected.keys() ^ tensors.keys()))
        _expect(not odd, part, f"without or with {', '.join(odd)}", "exactly the tensors that belong to model_config")
        for name, shape in expected.items():
            tensor, field = tensors[name], f"{part}.{name}"
            _expect(isinstance(tensor, torch.Tensor), field, tensor, "a tensor")
            plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.is_floating_point()
            is_as_expected, found = plain and tensor.shape == shape, f"{tensor.dtype} {list(tensor.shape)}"
            _expect(is_as_expected, field, found, f"floats of shape {list(shape)}")
            _expect(bool(torch.isfinite(tensor).all()), field, "NaN or infinite numbers", "finite ones")


def _expect(holds: bool, field: str, value: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{field} is {str(value)[:80]}, expected {expected}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_class(row: object) -> bool:
    if not isinstance(row, list | tuple) or len(row) != 3:
        return False
    return _is_count(row[0]) and all(text is None or isinstance(text, str) for text in row[1:])


def find_checkpoint(run: Path, name: str = "last") -> Path:
    """The path of a run's `last` or `best` checkpoint. Raises CheckpointError if there is none."""
    path = run / FOLDER / f"{name}.pt"
    if not path.is_file():
        there = sorted(file.name for file in path.parent.glob("*.pt"))
        has = f"it has {', '.join(there)}" if there else "it has none at all; train first"
        raise CheckpointError(f"{run} has no checkpoint {FOLDER}/{path.name}; {has}")
    return path


def load_network(checkpoint: dict[str, Any], device: torch.device | str = "cpu") -> AlexNet:
    """The unsplit network of a loaded checkpoint, in evaluation mode."""
    network = AlexNet(ModelConfig(**checkpoint["model_config"]))
    network.load_state_dict(checkpoint["model"])
    return network.to(device).eval()
