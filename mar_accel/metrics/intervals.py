"""Confidence intervals of shares."""

from __future__ import annotations

import math
from statistics import NormalDist

CONFIDENCE = 0.95


def wilson_interval(share: float, count: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The Wilson score interval of a share, which also holds for few images and for 0 or 1.

    The usual share ± error has no width at 0 and 1, and reaches beyond them.
    Source: Wilson, Probable Inference (JASA 1927); Brown, Cai and DasGupta (Statistical Science 2001).

    Args:
        share: share of the images with a property (0..1).
        count: number of images, at least 1.
        confidence: probability that the interval covers the true share.

    Returns:
        Lower and upper bound (0..1).

    Example:
        >>> wilson_interval(1.0, 16)  # 16 of 16 images
        (0.8063..., 1.0)
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # Rounding must not leave the observed share outside.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))
