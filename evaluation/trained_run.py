"""A run's folder in; its checkpoint, network, classes and shards out, checked to belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from dali_pipelines.augmentation import RecipeName
from evaluation.references import challenge_of
from evaluation.views import Classifier
from model.checkpoint import find_checkpoint, load_checkpoint, load_network
from sharding import ShardError, ShardSet, Statistics
from sharding.manifest import file_sha256


class EvaluationError(UserError):
    """Something that an evaluation or a report needs is missing or broken; the message says what, where, what to do."""


def choose_device(name: str) -> torch.device:
    """The device for --device auto, cpu or cuda. Raises EvaluationError for a GPU that is not there."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise EvaluationError("--device cuda, but torch sees no GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run and one checkpoint of it. `state` is the checkpoint's content, tensors on the CPU."""

    path: Path
    checkpoint: Path
    state: dict[str, Any]

    @classmethod
    def open(cls, path: Path, checkpoint: str = "last") -> "TrainedRun":
        """Open run `path` at its checkpoint "last" or "best", or at the checkpoint file named.

        Raises EvaluationError if there is no such run, CheckpointError if the checkpoint is absent or damaged.
        """
        if not path.is_dir():
            train = f"python train.py --shards DIR --run-dir {path}"
            raise EvaluationError(f"--run-dir {path}: no such folder; train first: {train}")
        file = find_checkpoint(path, checkpoint) if checkpoint in ("last", "best") else Path(checkpoint)
        return cls(path=path, checkpoint=file, state=load_checkpoint(file))

    @property
    def recipe(self) -> RecipeName:
        """Which recipe the network was trained with."""
        return self.state["model_config"]["recipe"]

    @property
    def classes(self) -> list[list[Any]]:
        """The class table by label: [label, wnid, name] each."""
        return sorted(self.state["dataset"]["classes"], key=lambda row: row[0])

    @property
    def class_names(self) -> list[str]:
        """Names by label, for people; the wnid or the label where a class has none."""
        return [str(name or wnid or label) for label, wnid, name in self.classes]

    @property
    def challenge(self) -> str | None:
        """ "ILSVRC-2010" or "ILSVRC-2012" if it was trained on all classes of one, else None."""
        return challenge_of((label, wnid, name) for label, wnid, name in self.classes)

    @property
    def statistics(self) -> Statistics:
        """The training data's mean image and color statistics, from the checkpoint."""
        arrays: dict[str, Any] = {name: np.asarray(tensor) for name, tensor in self.state["statistics"].items()}
        return Statistics(**{**arrays, "images": int(arrays["images"])})

    def classifier(self, device: torch.device) -> Classifier:
        """The unsplit network with the checkpoint's weights on `device`, with what its pictures are prepared by."""
        return Classifier(load_network(self.state, device=device), self.statistics, self.recipe, device)

    def checksum(self) -> str:
        """Hex SHA-256 of the checkpoint's file."""
        return file_sha256(self.checkpoint)

    def open_split(self, split: str, override: Path | None = None) -> ShardSet:
        """Open a packed split whose classes are the network's, below `override` or where the run was trained from.

        The folder may be that of all splits or of one of them. Raises EvaluationError if the split is not there or has
        other classes, ShardError if it is damaged.
        """
        folder = override or Path(self.state["dataset"]["shards"])
        folder = folder.parent if (folder / "manifest.json").is_file() else folder
        if not (folder / split / "manifest.json").is_file():
            packed = ", ".join(sorted(manifest.parent.name for manifest in folder.glob("*/manifest.json")))
            there = f"it holds {packed or 'no packed split'}" if folder.is_dir() else "there is no such folder"
            raise EvaluationError(
                f"{folder}: no split {split!r} there ({there}); pack it with `python -m sharding pack SRC {folder} "
                f"--split {split}`, or name another folder with --shards"
            )
        shards = ShardSet.open(folder / split)
        theirs = {entry.label: entry.wnid or entry.name for entry in shards.classes}
        ours = {label: wnid or name for label, wnid, name in self.classes}
        if theirs != ours:
            label = min(label for label in ours | theirs if ours.get(label) != theirs.get(label))
            raise EvaluationError(
                f"{shards.path} has other classes ({len(theirs)}) than {self.checkpoint} ({len(ours)}): class {label} "
                f"is {theirs.get(label)!r} there, {ours.get(label)!r} here; pack both with the same table (--classes)"
            )
        return shards


def open_common_split(runs: Sequence[TrainedRun], split: str, override: Path | None) -> ShardSet:
    """The split that all runs are to be evaluated on. Raises EvaluationError if they have other classes or splits."""
    first = runs[0].open_split(split, override)
    for run in runs[1:]:
        with run.open_split(split, override) as shards:
            if shards.fingerprint != first.fingerprint:
                raise EvaluationError(
                    f"{shards.path}, where {run.path} was trained from, holds other images than {first.path}: networks "
                    "are averaged over one split; name its folder with --shards"
                )
    return first


def try_split(run: TrainedRun, split: str, override: Path | None) -> tuple[ShardSet | None, str]:
    """The split and "", or None and the sentence that says why it cannot be opened."""
    try:
        return run.open_split(split, override), ""
    except (EvaluationError, ShardError) as error:
        return None, str(error)
