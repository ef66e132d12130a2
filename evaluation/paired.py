"""Two networks' answers for the same images in; the difference of their errors, its interval and McNemar's test out.

Both networks see the same images, and most images are right or wrong for both: the images on which they differ tell
more than two intervals beside each other.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from model.scores import CONFIDENCE_DEVIATE


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Error of the second network less that of the first, as a fraction; `low` and `high` bound it at 95 %.

    `only_first`, `only_second`: images that only this network has right. `p_value`: McNemar's exact test (1947), two
    sides: how often equally good networks would differ so much.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def compare_answers(first: np.ndarray, second: np.ndarray) -> PairedDifference:
    """Compare whether each image is right, bool [n], n at least 1, for two networks.

    The interval is Agresti and Min's (2005) for matched pairs: half an image is added to each of the four counts, so
    that it is sound for few images too. Raises ValueError for different numbers of images, or none.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(f"expected the same images for both, at least one, got {first.shape} and {second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    lost, won, images = only_first + 0.5, only_second + 0.5, len(first) + 2
    middle = (lost - won) / images
    margin = CONFIDENCE_DEVIATE * (lost + won - (lost - won) ** 2 / images) ** 0.5 / images
    discordant = only_first + only_second
    return PairedDifference(
        difference=(only_first - only_second) / len(first),
        low=max(middle - margin, -1.0),
        high=min(middle + margin, 1.0),
        only_first=only_first,
        only_second=only_second,
        p_value=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    )
