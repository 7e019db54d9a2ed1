"""Precision and recall over manifolds of k nearest neighbours, as in ADM's evaluator.

Source: Kynkäänniemi et al., Improved Precision and Recall Metric (arXiv:1904.06991); k = 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mar_accel.errors import DataError
from mar_accel.utils.progress import progress

# Rows of a block of distances: bounds the memory to BLOCK · N numbers.
BLOCK = 1024


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances [n, m] in float64."""
    return torch.cdist(rows.double(), others.double())


def manifold_radii(features: Tensor, k: int = 3) -> Tensor:
    """Distance of each vector of [N, F] to its k-th nearest other one: [N], float64."""
    if len(features) <= k:
        raise DataError(f"precision and recall need more than {k} images of each set, not {len(features)}.")
    # The nearest of all is the vector itself, at distance 0.
    radii = [
        _distances(block, features).kthvalue(k + 1, dim=1).values
        for block in progress(features.split(BLOCK), "radii of the neighbours")
    ]
    return torch.cat(radii)


def share_inside(features: Tensor, manifold: Tensor, radii: Tensor) -> float:
    """Share of ``features`` [N, F] within the radius [M] of any vector of ``manifold`` [M, F]; 0..1."""
    inside = [
        (_distances(block, manifold) <= radii).any(dim=1)
        for block in progress(features.split(BLOCK), "precision and recall")
    ]
    return float(torch.cat(inside).double().mean())


def precision_recall(features: Tensor, reference: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision (generated images that look real) and recall (real images that are covered); 0..1.

    Args:
        features: of the generated images [N, F]. reference: of the real ones [M, F].
    """
    precision = share_inside(features, reference, manifold_radii(reference, k))
    recall = share_inside(reference, features, manifold_radii(features, k))
    return precision, recall
