"""A run's checkpoint and a packed split in; ten-patch and centre-crop errors out, on screen and in `RUN/report.json`.

    python eval_tenpatch.py --run RUN [--checkpoint last|best|FILE] [--shards DIR] [--split val|test]
    torchrun --nproc-per-node N -- eval_tenpatch.py --run RUN …       several GPUs or processes, the same figures
    python eval_tenpatch.py --run RUN --predict IMAGE…                the five best classes of any picture

Beside report.json: `class_errors.csv` (a line for each class) and `predictions.npz` (a row for each image).
"""

import argparse
import datetime
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from dali_pipelines import DataConfig, Loader, LoaderError
from dali_pipelines.augmentation import VIEWS, Recipe
from model import AlexNet
from model.checkpoint import CheckpointError
from model.mesh import Mesh, MeshError, close_mesh, make_mesh
from model.scores import ScoreError, Scores
from model.state import versions
from model.stopping import LostRankError, noticing_lost_ranks
from report.errors import METHODS, class_errors_csv, error_table
from report.files import publish
from report.forward import Forward
from report.metrics import ReportError
from report.names import class_names
from report.options import add_run_options, device_type, positive
from report.references import reference_note, references_for
from report.trained_run import TrainedRun
from report.views import Classifier, average_views
from sharding import RejectedImage, ShardError, ShardSet, Statistics, prepare_image
from sharding.resize import decode_stored

OURS = (CheckpointError, LoaderError, LostRankError, MeshError, ReportError, ScoreError, ShardError, OSError)
BEST = 5
BATCH_SIZE = {"cpu": 25, "cuda": 128}  # ten views each
RANK_TIMEOUT_SECONDS = 600.0


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
    recipe: Recipe,
    *,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Evaluation:
    """This rank's part of the split `shards`, each image decoded once and seen in ten views.

    `network` must be on the mesh's device, in evaluation mode; `batch_size` counts images over all ranks.
    """
    mesh = mesh or Mesh()
    classes = len(shards.classes)
    kept = min(BEST, classes)
    scores = {method: Scores(classes) for method in METHODS}
    rows: dict[str, list[np.ndarray]] = {
        "ids": [np.zeros(0, np.int64)],
        "labels": [np.zeros(0, np.int64)],
        "best": [np.zeros((0, kept), np.int32)],
        "probability": [np.zeros((0, kept), np.float32)],
    }
    config = DataConfig(recipe=recipe, batch_size=batch_size, device=str(mesh.device), training=False, views=VIEWS)
    hidden = not mesh.first or not sys.stderr.isatty()
    with Loader(shards, config, mesh.rank, mesh.world, statistics=statistics) as loader, Forward(network) as forward:
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


def gather(part: Evaluation, mesh: Mesh, images: int) -> Evaluation | None:
    """All ranks' parts joined on rank 0; None on the others."""
    if mesh.world == 1:
        return Evaluation.joined([part], images)
    parts: list[Any] | None = [None] * mesh.world if mesh.first else None
    dist.gather_object(part, parts, dst=0, group=mesh.control_group)
    return Evaluation.joined(parts, images) if parts else None


def run_evaluation(options: argparse.Namespace) -> None:
    """Evaluate, and on rank 0 publish and print. Raises one of `OURS`."""
    run = TrainedRun.open(options.run, options.checkpoint)
    mesh = make_mesh(1, device_type(options.device), RANK_TIMEOUT_SECONDS)
    with run.open_split(options.split, options.shards) as shards:
        network, start = run.network(mesh.device), time.perf_counter()
        size = (options.batch_size or BATCH_SIZE[mesh.device.type]) * mesh.world
        part = evaluate(network, shards, run.statistics, run.recipe, batch_size=size, mesh=mesh)
        whole = gather(part, mesh, len(shards))
        if whole is not None:
            report = describe(run, shards, whole, mesh, time.perf_counter() - start)
            write_results(run, whole, report)
            sys.stdout.write(
                f"{report['data_set'] or shards.path}: {report['images']} images, {run.describe()}, "
                f"{report['images_per_second']:.1f} images/s\n{error_table(report)}"
                f"written: {run.path / 'report.json'}, class_errors.csv, predictions.npz\n"
            )


def describe(run: TrainedRun, shards: ShardSet, whole: Evaluation, mesh: Mesh, seconds: float) -> dict[str, Any]:
    """The content of report.json. Errors are fractions, log loss in nats, intervals at 95 %."""
    return {
        "format": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data_set": f"{run.challenge} {shards.split}" if run.challenge else None,
        "split": shards.split,
        "images": len(whole.ids),
        "classes": len(shards.classes),
        **{method: scores.figures() for method, scores in whole.scores.items()},
        "references": [asdict(item) for item in references_for(run.challenge, shards.split)],
        "reference_note": reference_note(run.challenge, shards.split, len(whole.ids)),
        "model": run.state["model_config"],
        "checkpoint": {
            "file": str(run.checkpoint),
            "sha256": run.checksum(),
            "epoch": run.state["epoch"],
            "step": run.state["step"],
        },
        "data": {"shards": str(shards.path), "fingerprint": shards.fingerprint, "samples": len(shards)},
        "training_data": {key: run.state["data"][key] for key in ("shards", "fingerprint", "samples")},
        "machine": mesh.describe(),
        "seconds": round(seconds, 3),
        "images_per_second": round(len(whole.ids) / seconds, 3),
        "versions": versions(),
    }


def write_results(run: TrainedRun, whole: Evaluation, report: dict[str, Any]) -> None:
    """Write the three files into the run's folder, report.json last."""
    rows = io.BytesIO()
    np.savez_compressed(rows, ids=whole.ids, labels=whole.labels, best=whole.best, probability=whole.probability)
    publish(run.path / "class_errors.csv", class_errors_csv(run.classes, whole.scores["ten_patch"]).encode())
    publish(run.path / "predictions.npz", rows.getvalue())
    publish(run.path / "report.json", (json.dumps(report, indent=2) + "\n").encode())


def run_prediction(options: argparse.Namespace) -> int:
    """Print the five best classes of each picture of --predict. Returns 1 if a picture cannot be read, else 0."""
    run = TrainedRun.open(options.run, options.checkpoint)
    device = torch.device(device_type(options.device))
    packing, note = run.packing_options(options.shards)
    if note:
        sys.stderr.write(f"note: {note}\n")
    classifier = Classifier(run.network(device), run.statistics, run.recipe, device)
    names, failed = class_names(run.classes), 0
    for path in options.predict:
        try:
            stored = prepare_image(path.read_bytes(), **packing)
        except (RejectedImage, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            sys.stderr.write(f"error: {path}: {reason}; expected a picture file\n")
            failed += 1
            continue
        probabilities = classifier.probabilities(decode_stored(stored, packing["encoding"])[None])[0]
        sys.stdout.write(f"{path}\n")
        for label in np.argsort(-probabilities, kind="stable")[:BEST]:
            sys.stdout.write(f"  {100 * probabilities[label]:6.2f} %  {names[label]}\n")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 done, 1 the work failed (2, a wrong command line, exits)."""
    options = _parser().parse_args(arguments)
    try:
        if options.predict:
            return run_prediction(options)
        with noticing_lost_ranks():
            run_evaluation(options)
    except OURS as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    close_mesh()  # after an error it could wait for a process that has gone
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="eval_tenpatch.py", description="Ten-patch errors of a trained run.")
    add_run_options(parser)
    parser.add_argument("--split", choices=("val", "test"), default="val", help="which split (default: val)")
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="images a step and process (default: 25, on a GPU 128)"
    )
    parser.add_argument("--predict", type=Path, nargs="+", metavar="IMAGE", help="name what these pictures show")
    return parser


if __name__ == "__main__":
    sys.exit(main())
