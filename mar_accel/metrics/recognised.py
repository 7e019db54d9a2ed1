"""The share of images that a classifier takes for what they were meant to be."""

from __future__ import annotations

import math

from torch import Tensor


def recognised(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Share of images whose most likely class is their label (0..1), and its standard error.

    Args:
        logits: [N, classes], of a classifier trained on real images; for the digits the shipped network,
            trained on the original 8×8 scans.
        labels: [N], the classes the images were generated for.
    """
    share = float((logits.argmax(dim=1) == labels).double().mean())
    return share, math.sqrt(share * (1 - share) / len(labels))
