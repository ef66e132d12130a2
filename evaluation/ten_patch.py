"""Networks and a packed split, or picture files, in; ten views of each image; scores and the best classes out.

Of several networks the mean of their probabilities is scored (Krizhevsky 2012 §6), and each by itself. Every rank takes
its slice of each batch; counts add up, so the figures are the same for any number of ranks.
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import VIEWS
from evaluation.tables import METHODS
from evaluation.trained_run import TrainedRun, try_split
from evaluation.views import LOGITS, Classifier, average_networks, average_views, infer
from model.scores import ScoreError, Scores
from sharding import RejectedImage, ShardSet, prepare_image
from sharding.pictures import decode_stored

BEST = 5
CPU_BATCH, MOST_BATCH = 25, 128  # images a step and process
# Ten views of an image are 6 MB of float32. DALI holds about four of them (two outputs ahead, two between operators),
# the network one, conv1's output (11.6 MB) and what its norm makes of that three. An estimate, not measured on a GPU.
BYTES_PER_IMAGE = 5 * 6_021_120 + 4 * 11_616_000


class Predictions(NamedTuple):
    """Answers by image, best class first: ids, labels int64 [n]; best int32, probability float32 [n, k]."""

    ids: np.ndarray
    labels: np.ndarray
    best: np.ndarray
    probability: np.ndarray

    def correct(self, guesses: int = 1) -> np.ndarray:
        """Whether the true class is among the best `guesses`: bool [n]."""
        return (self.best[:, :guesses] == self.labels[:, None]).any(axis=1)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one rank, or all of them, found.

    scores: by method, of several networks those of their mean; then the ten-patch ones of each, `network 0` and so on.
    rows: the five best classes of the ten-patch mean.
    """

    scores: dict[str, Scores]
    rows: Predictions

    @classmethod
    def joined(cls, parts: Sequence["Evaluation"], images: int) -> "Evaluation":
        """All ranks' parts in the split's order. Raises ScoreError unless every image 0..images-1 is there once."""
        rows = Predictions(*map(np.concatenate, zip(*(part.rows for part in parts))))
        order = np.argsort(rows.ids, kind="stable")
        if not np.array_equal(rows.ids[order], np.arange(images)):
            got = f"{len(rows.ids)} answers for {len(np.unique(rows.ids))} images"
            raise ScoreError(f"expected each image 0..{images - 1} once, got {got}")
        scores = copy.deepcopy(parts[0].scores)
        for part in parts[1:]:
            for name, total in scores.items():
                total.merge(part.scores[name])
        return cls(scores=scores, rows=Predictions(*(column[order] for column in rows)))


def default_batch_size(device: torch.device) -> int:
    """Images a step and process: 25 on the CPU; on a GPU what half of its free memory holds, 1 to 128."""
    if device.type == "cpu":
        return CPU_BATCH
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return max(min(free_bytes // 2 // BYTES_PER_IMAGE, MOST_BATCH), 1)


def evaluate(
    members: Sequence[Classifier],
    shards: ShardSet,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    decode: Literal["gpu", "cpu"] = "gpu",
    quiet: bool = False,
) -> Evaluation:
    """This rank's part of the split `shards`, each image decoded once and seen in ten views by each network.

    All `members` are on one device; `batch_size` counts images over all ranks. decode: "cpu" decodes for a GPU on the
    CPU. What one network's own device decodes arrives normalized, faster; else each normalizes by its own mean image.
    """
    first, classes = members[0], len(shards.classes)
    normalized = len(members) == 1 and decode == "gpu"
    networks = [f"network {number}" for number in range(len(members)) if len(members) > 1]
    scores = {name: Scores(classes) for name in (*METHODS, *networks)}
    none, no_best = np.zeros(0, np.int64), np.zeros((0, min(BEST, classes)))
    rows = [Predictions(none, none, no_best.astype(np.int32), no_best.astype(np.float32))]
    source = str(first.device) if decode == "gpu" else "cpu"
    output: Literal["float32", "uint8"] = "float32" if normalized else "uint8"
    config = DataConfig(
        recipe=first.recipe, batch_size=batch_size, device=source, training=False, views=VIEWS, output=output
    )
    hidden = quiet or rank != 0 or None  # None: where there is no terminal
    with Loader(shards, config, rank, world, statistics=first.statistics) as loader:
        steps = tqdm(loader.epoch(0), total=loader.steps_per_epoch, unit="batch", disable=hidden, desc="ten patches")
        for batch in steps:
            if not len(batch.labels):
                continue  # this rank has no part of the last batch
            answers, labels = [], batch.labels.cpu()
            for member in members:
                views = batch.images if normalized else member.normalize(batch.images, batch.augmentation)
                answers.append(average_views(infer(member.network, views)))
            found = average_networks(answers) | {name: own["ten_patch"] for name, own in zip(networks, answers)}
            for name, score in scores.items():
                (score.add_logits if name in LOGITS else score.add)(found[name], labels)
            top = found["ten_patch"].cpu().topk(min(BEST, classes), dim=1)
            rows.append(Predictions(*map(np.asarray, (batch.ids, labels, top.indices.int(), top.values.float()))))
    return Evaluation(scores=scores, rows=Predictions(*map(np.concatenate, zip(*rows))))


def gather(part: Evaluation, images: int, group: dist.ProcessGroup | None) -> Evaluation:
    """All parts of the ranks of `group` (None: one process) joined, on each of them."""
    parts = [part]
    if group is not None:
        parts *= dist.get_world_size(group)
        dist.all_gather_object(parts, part, group)
    return Evaluation.joined(parts, images)


def predict(run: TrainedRun, pictures: Sequence[Path], device: torch.device, shards: Path | None) -> int:
    """Print the five best classes of each picture file. Returns 1 if one cannot be read, else 0.

    `shards`: where the packed splits are, if not where the run was trained from. Pictures are prepared as the training
    pictures were; where their split is no longer there to tell how, by the packer's defaults, which is said.
    """
    training, missing = try_split(run, "train", shards)
    if training is None:
        sys.stderr.write(f"note: pictures are packed with the default options, since {missing}\n")
        packing: dict[str, Any] = {"encoding": "jpeg"}
    else:
        with training:
            packing = {name: training.options[name] for name in ("resample", "quality", "encoding")}
    classifier, failed = run.classifier(device), 0
    for path in pictures:
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
            sys.stdout.write(f"  {100 * probabilities[label]:6.2f} %  {run.class_names[label]}\n")
    return 1 if failed else 0
