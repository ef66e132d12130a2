"""Ten-patch evaluation: networks and a packed split in; each image decoded once, ten views, scores and answers out.

Of several networks the mean of their probabilities is scored (Krizhevsky 2012 §6), and each by itself.

Every rank takes its slice of each batch; counts add up, so the figures are the same for any number of ranks.
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from dali_pipelines import DataConfig, Loader, Normalize
from dali_pipelines.augmentation import VIEWS, RecipeName
from evaluation.inference import inference
from evaluation.tables import METHODS
from evaluation.views import average_networks, average_views
from model import AlexNet
from model.scores import ScoreError, Scores
from sharding import ShardSet, Statistics

BEST = 5
CPU_BATCH, MOST_BATCH = 25, 128  # images a step and process
# Ten views of an image are 6 MB of float32. DALI holds about four of them (two outputs ahead, two between operators),
# the network one, conv1's output (11.6 MB) and what its norm makes of that three. An estimate, not measured on a GPU.
BYTES_PER_IMAGE = 5 * 6_021_120 + 4 * 11_616_000


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one rank, or all of them, found; the arrays have a row for each image.

    scores: by method; of several networks those of their mean, and the ten-patch ones of each in `members`.

    ids, labels int64 [n]; best int32 [n, k] and probability float32 [n, k]: the k best classes of the ten-patch mean.
    """

    scores: dict[str, Scores]
    members: list[Scores] = field(default_factory=list)
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
        first = copy.deepcopy(parts[0])
        for part in parts[1:]:
            for method, total in first.scores.items():
                total.merge(part.scores[method])
            for total, member in zip(first.members, part.members, strict=True):
                total.merge(member)
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])[order]
            for name in ("ids", "labels", "best", "probability")
        }
        return cls(scores=first.scores, members=first.members, **columns)


class Member(NamedTuple):
    """A network on the device, in evaluation mode, with the statistics and the recipe that it was trained with."""

    network: AlexNet
    statistics: Statistics
    recipe: RecipeName


def default_batch_size(device: torch.device) -> int:
    """Images a step and process: 25 on the CPU; on a GPU what half of its free memory holds, 1 to 128."""
    if device.type == "cpu":
        return CPU_BATCH
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return max(min(free_bytes // 2 // BYTES_PER_IMAGE, MOST_BATCH), 1)


def evaluate(
    members: Sequence[Member],
    shards: ShardSet,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    device: str = "cpu",
) -> Evaluation:
    """This rank's part of the split `shards`, each image decoded once and seen in ten views by each network.

    `batch_size` counts images over all ranks.
    """
    classes = len(shards.classes)
    guesses = min(BEST, classes)
    several = len(members) > 1  # each of them normalizes the pixels by its own mean image
    scores = {method: Scores(classes) for method in METHODS}
    member_scores = [Scores(classes) for _ in members] if several else []
    rows: dict[str, list[np.ndarray]] = {
        "ids": [np.zeros(0, np.int64)],
        "labels": [np.zeros(0, np.int64)],
        "best": [np.zeros((0, guesses), np.int32)],
        "probability": [np.zeros((0, guesses), np.float32)],
    }
    _, statistics, recipe = members[0]
    normalizers = [Normalize(member.statistics, member.recipe, torch.device(device)) for member in members]
    config = DataConfig(
        recipe=recipe,
        batch_size=batch_size,
        device=device,
        training=False,
        views=VIEWS,
        output="uint8" if several else "float32",
    )
    hidden = rank != 0 or not sys.stderr.isatty()
    with Loader(shards, config, rank, world, statistics=statistics) as loader, inference() as compute:
        steps = tqdm(loader.epoch(0), total=loader.steps_per_epoch, unit="batch", disable=hidden, desc="ten patches")
        for batch in steps:
            if not len(batch.labels):
                continue  # this rank has no part of the last batch
            answers, labels = [], batch.labels.cpu()
            for member, normalize in zip(members, normalizers):
                views = normalize(batch.images, batch.augmentation) if several else batch.images
                answers.append(average_views(compute(member.network, views)))
            for member_score, answer in zip(member_scores, answers):
                member_score.add(answer.probabilities, labels)
            answer = average_networks(answers)
            scores["ten_patch"].add(answer.probabilities, labels)
            scores["ten_patch_mean_logits"].add_logits(answer.mean_logits, labels)
            scores["center_crop"].add_logits(answer.center_logits, labels)
            top = answer.probabilities.cpu().topk(guesses, dim=1)
            rows["ids"].append(batch.ids.numpy().copy())
            rows["labels"].append(labels.numpy().copy())
            rows["best"].append(top.indices.numpy().astype(np.int32))
            rows["probability"].append(top.values.numpy().astype(np.float32))
    return Evaluation(
        scores=scores, members=member_scores, **{name: np.concatenate(parts) for name, parts in rows.items()}
    )


def gather(part: Evaluation, images: int, group: dist.ProcessGroup | None) -> Evaluation | None:
    """All ranks' parts joined on rank 0 of `group` (None: one process); None on the others."""
    if group is None:
        return Evaluation.joined([part], images)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    parts: list[Any] | None = [None] * world if rank == 0 else None
    dist.gather_object(part, parts, dst=0, group=group)
    return Evaluation.joined(parts, images) if parts else None
