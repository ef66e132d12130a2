"""Picture files in; the five best classes of each on the screen, as the run's network sees ten views of it."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from evaluation.ten_patch import BEST
from evaluation.trained_run import TrainedRun
from evaluation.views import Classifier
from sharding import RejectedImage, prepare_image
from sharding.resize import decode_stored


def predict(run: TrainedRun, pictures: Sequence[Path], device: torch.device, shards: Path | None) -> int:
    """Print the five best classes of each picture file. Returns 1 if one cannot be read, else 0.

    `shards`: where the packed splits are, if not where the run was trained from.
    """
    packing, note = run.packing_options(shards)
    if note:
        sys.stderr.write(f"note: {note}\n")
    classifier = Classifier(run.network(device), run.statistics, run.recipe, device)
    names, failed = run.class_names, 0
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
            sys.stdout.write(f"  {100 * probabilities[label]:6.2f} %  {names[label]}\n")
    return 1 if failed else 0
