"""The share of images that a classifier assigns to the class they were generated for."""

from __future__ import annotations

import math

from torch import Tensor


def recognised(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Share of images whose most likely class is their label (0..1), and its standard error.

    Args:
        logits: [N, classes], from a classifier trained on real images.
            For digits it is the shipped network, trained on the original 8×8 scans.
        labels: classes that the images were generated for [N].
    """
    share = float((logits.argmax(dim=1) == labels).double().mean())
    return share, math.sqrt(share * (1 - share) / len(labels))
