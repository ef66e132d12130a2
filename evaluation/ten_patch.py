"""Ten-patch evaluation: a network and a packed split in; each image decoded once, ten views, scores and answers out.

Every rank takes its slice of each batch; counts add up, so the figures are the same for any number of ranks.
"""

import datetime
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from tqdm import tqdm

from common.files import write_atomically
from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import VIEWS, RecipeName
from evaluation.inference import Inference
from evaluation.references import reference_note, references_for
from evaluation.tables import METHODS, class_errors_csv
from evaluation.trained_run import TrainedRun
from evaluation.views import average_views
from model import AlexNet
from model.checkpoint import versions
from model.scores import ScoreError, Scores
from sharding import ShardSet, Statistics

BEST = 5


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one rank, or all of them, found. `scores` by method; the rest a row for each image.

    ids, labels int64 [n]; best int32 [n, k] and probability float32 [n, k]: the k best classes of the ten-patch mean.
    """

    scores: dict[str, Scores]
    ids: np.ndarray
    labels: np.ndarray
    best: np.ndarray
    probability: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Evaluation"], images: int) -> "Evaluation":
        """All ranks' parts in the split's order. Raises ScoreError unless every image 0..images-1 is there once."""
        ids = np.concatenate([part.ids for part in parts])
        order = np.argsort(ids, kind="stable")
        if not np.array_equal(ids[order], np.arange(images)):
            different = len(np.unique(ids))
            raise ScoreError(f"expected each image 0..{images - 1} once, got {len(ids)} answers for {different} images")
        scores = {method: Scores(parts[0].scores[method].classes) for method in METHODS}
        for part in parts:
            for method, total in scores.items():
                total.merge(part.scores[method])
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])[order]
            for name in ("ids", "labels", "best", "probability")
        }
        return cls(scores=scores, **columns)


def evaluate(
    network: AlexNet,
    shards: ShardSet,
    statistics: Statistics,
    recipe: RecipeName,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    device: str = "cpu",
) -> Evaluation:
    """This rank's part of the split `shards`, each image decoded once and seen in ten views.

    `network` must be on `device`, in evaluation mode; `batch_size` counts images over all ranks.
    """
    classes = len(shards.classes)
    kept = min(BEST, classes)
    scores = {method: Scores(classes) for method in METHODS}
    rows: dict[str, list[np.ndarray]] = {
        "ids": [np.zeros(0, np.int64)],
        "labels": [np.zeros(0, np.int64)],
        "best": [np.zeros((0, kept), np.int32)],
        "probability": [np.zeros((0, kept), np.float32)],
    }
    config = DataConfig(recipe=recipe, batch_size=batch_size, device=device, training=False, views=VIEWS)
    hidden = rank != 0 or not sys.stderr.isatty()
    with Loader(shards, config, rank, world, statistics=statistics) as loader, Inference(network) as forward:
        steps = tqdm(loader.epoch(0), total=loader.steps_per_epoch, unit="batch", disable=hidden, desc="ten patches")
        for batch in steps:
            if not len(batch.labels):
                continue  # this rank has no part of the last batch
            answer, labels = average_views(forward(batch.images)), batch.labels.cpu()
            scores["ten_patch"].add(answer.probabilities, labels)
            scores["ten_patch_mean_logits"].add_logits(answer.mean_logits, labels)
            scores["center_crop"].add_logits(answer.center_logits, labels)
            top = answer.probabilities.cpu().topk(kept, dim=1)
            rows["ids"].append(batch.ids.numpy().copy())
            rows["labels"].append(labels.numpy().copy())
            rows["best"].append(top.indices.numpy().astype(np.int32))
            rows["probability"].append(top.values.numpy().astype(np.float32))
    return Evaluation(scores=scores, **{name: np.concatenate(parts) for name, parts in rows.items()})


def gather(part: Evaluation, images: int, group: dist.ProcessGroup | None) -> Evaluation | None:
    """All ranks' parts joined on rank 0 of `group` (None: one process); None on the others."""
    if group is None:
        return Evaluation.joined([part], images)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    parts: list[Any] | None = [None] * world if rank == 0 else None
    dist.gather_object(part, parts, dst=0, group=group)
    return Evaluation.joined(parts, images) if parts else None


def describe(run: TrainedRun, shards: ShardSet, evaluation: Evaluation, machine: str, seconds: float) -> dict[str, Any]:
    """The content of report.json. Errors are fractions, log loss in nats, intervals at 95 %."""
    return {
        "format": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "name": f"{run.challenge} {shards.split}" if run.challenge else None,
        "split": shards.split,
        "images": len(evaluation.ids),
        "classes": len(shards.classes),
        **{method: scores.figures() for method, scores in evaluation.scores.items()},
        "references": [asdict(item) for item in references_for(run.challenge, shards.split)],
        "reference_note": reference_note(run.challenge, shards.split, len(evaluation.ids)),
        "model": run.state["model_config"],
        "checkpoint": {
            "file": str(run.checkpoint),
            "sha256": run.checksum(),
            "epoch": run.state["epoch"],
            "step": run.state["step"],
        },
        "dataset": {"shards": str(shards.path), "fingerprint": shards.fingerprint, "samples": len(shards)},
        "training_dataset": {key: run.state["dataset"][key] for key in ("shards", "fingerprint", "samples")},
        "machine": machine,
        "seconds": round(seconds, 3),
        "images_per_second": round(len(evaluation.ids) / seconds, 3),
        "versions": versions(),
    }


def write_results(run: TrainedRun, evaluation: Evaluation, report: dict[str, Any]) -> None:
    """Write the three files into the run's folder, report.json last."""
    rows = io.BytesIO()
    np.savez_compressed(
        rows, ids=evaluation.ids, labels=evaluation.labels, best=evaluation.best, probability=evaluation.probability
    )
    _write(run.path / "class_errors.csv", class_errors_csv(run.classes, evaluation.scores["ten_patch"]).encode())
    _write(run.path / "predictions.npz", rows.getvalue())
    _write(run.path / "report.json", (json.dumps(report, indent=2) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    with write_atomically(path) as file:
        file.write(content)
