"""Scores: probabilities and labels in; top-1 and top-5 errors, log loss and their intervals out.

Counts are kept per class and add up over batches and over ranks, so that any division of a data set into batches
and ranks gives the same errors. Ties earn fractional credit, as in the original program: if `better` classes have
a higher score than the true class, and `equal` classes (itself among them) the same, then the true class is among
the best k with probability (k - better) / equal, cut to 0..1. An untrained network that gives every class the same
score has so an error of 1 - k/classes, where taking the first index would flatter or damn it by class order.
"""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from common.errors import UserError

CONFIDENCE_DEVIATE = 1.959963984540054  # two-sided 95 % point of the standard normal distribution


class ScoreError(UserError):
    """What was to be scored cannot be: wrong shapes, labels outside the classes, NaN, or no image at all."""


class Scores:
    """Sums over scored images, float64 [classes, 5] by true class: images, wrong in top-1, in top-5, loss, loss²."""

    def __init__(self, classes: int) -> None:
        if classes < 1:
            raise ScoreError(f"classes must be at least 1, got {classes}")
        self.classes = classes
        self._sums = torch.zeros(classes, 5, dtype=torch.float64)

    def add(self, probabilities: torch.Tensor, labels: torch.Tensor) -> None:
        """Score probabilities float [n, classes] (rows sum to 1) against labels int64 [n]; n may be 0.

        A probability of 0 for the true class counts as the smallest normal float64: a log loss of 708, not inf.
        Raises ScoreError for wrong shapes, labels outside 0..classes-1, and values that are not finite.
        """
        values = self._checked(probabilities, labels)
        self._count(values, values.clamp_min(torch.finfo(torch.float64).tiny).log(), labels)

    def add_logits(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Score logits float [n, classes] against labels int64 [n]: the same as `add` of their softmax.

        Ranks are taken from the logits themselves, where two large ones differ that a softmax would round to 1.
        """
        values = self._checked(logits, labels)
        self._count(values, torch.log_softmax(values, dim=1), labels)

    def _checked(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`values` as float64 on the CPU, after the checks that `add` promises."""
        if values.ndim != 2 or values.shape[1] != self.classes or labels.shape != values.shape[:1]:
            shapes = f"{list(values.shape)} and {list(labels.shape)}"
            raise ScoreError(f"expected scores [n, {self.classes}] and labels [n], got {shapes}")
        values = values.detach().to("cpu", torch.float64)
        if not torch.isfinite(values).all():
            row = int((~torch.isfinite(values)).any(dim=1).nonzero()[0])
            raise ScoreError(f"the network's output for image {row} of a batch is not finite")
        least, most = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        if not 0 <= least <= most < self.classes:
            raise ScoreError(f"labels must lie in 0..{self.classes - 1}, got {least}..{most}")
        return values

    def _count(self, values: torch.Tensor, log_probabilities: torch.Tensor, labels: torch.Tensor) -> None:
        labels = labels.detach().to("cpu", torch.int64)
        column = labels[:, None]
        true_score = values.gather(1, column)
        better, equal = (values > true_score).sum(dim=1), (values == true_score).sum(dim=1)
        loss = -log_probabilities.gather(1, column)[:, 0]
        top1, top5 = (1 - ((best - better).double() / equal).clamp(0, 1) for best in (1, 5))
        self._sums.index_add_(0, labels, torch.stack([torch.ones_like(loss), top1, top5, loss, loss.square()], dim=1))

    def merge(self, other: "Scores") -> None:
        """Add another rank's or another part's sums to these; both must have the same number of classes."""
        if other.classes != self.classes:
            raise ScoreError(f"cannot merge scores of {other.classes} classes into {self.classes}")
        self._sums += other._sums

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Every rank of `group`, one that carries CPU tensors, gets the sum over its ranks."""
        dist.all_reduce(self._sums, group=group)

    @property
    def images(self) -> int:
        """How many images have been scored."""
        return round(float(self._sums[:, 0].sum()))

    def errors_by_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images int64 [classes], wrong in top-1 and in top-5 float64 [classes] (counts; ties make fractions)."""
        images, top1, top5, *_ = self._sums.numpy().T.copy()
        return images.round().astype(np.int64), top1, top5

    def figures(self) -> dict[str, Any]:
        """Errors as fractions 0..1, mean log loss in nats, and of each an interval [low, high] at 95 %.

        (Wilson's of the errors, the normal one of the loss.) Raises ScoreError if nothing has been scored.
        """
        images = self.images
        if not images:
            raise ScoreError("no image has been scored")
        _, top1, top5, loss, squared = self._sums.sum(dim=0).tolist()
        mean = loss / images
        variance = max(squared - images * mean * mean, 0.0) / max(images - 1, 1)
        margin = CONFIDENCE_DEVIATE * (variance / images) ** 0.5
        return {
            "images": images,
            "top1_error": top1 / images,
            "top1_interval": list(wilson_interval(top1, images)),
            "top5_error": top5 / images,
            "top5_interval": list(wilson_interval(top5, images)),
            "log_loss": mean,
            "log_loss_interval": [mean - margin, mean + margin],
        }


def wilson_interval(errors: float, images: int) -> tuple[float, float]:
    """95 % interval (low, high) of an error rate of which `errors` in `images` were seen (Wilson 1927).

    Unlike the normal interval it stays inside 0..1 and is not empty at 0 errors. `errors` may be fractional.
    Raises ScoreError for no images or errors outside 0..images.
    """
    if images < 1 or not -1e-9 <= errors <= images + 1e-9:
        raise ScoreError(f"expected 0 <= errors <= images and images >= 1, got {errors} of {images}")
    z, rate = CONFIDENCE_DEVIATE, min(max(errors / images, 0.0), 1.0)
    middle = rate + z * z / (2 * images)
    margin = z * (rate * (1 - rate) / images + (z / (2 * images)) ** 2) ** 0.5
    scale = 1 + z * z / images
    return max((middle - margin) / scale, 0.0), min((middle + margin) / scale, 1.0)
