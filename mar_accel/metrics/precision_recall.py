"""Precision and recall with k-nearest-neighbour manifolds, as in ADM's evaluator.

Source: Kynkäänniemi et al., Improved Precision and Recall Metric (arXiv:1904.06991); k = 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mar_accel.errors import DataError
from mar_accel.utils.progress import progress

# Rows of one block of distances. It limits the memory to BLOCK · N numbers.
BLOCK = 1024


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances [n, m] in float64."""
    return torch.cdist(rows.double(), others.double())


def manifold_radii(features: Tensor, k: int = 3) -> Tensor:
    """Distance of each vector of ``features`` [N, F] to its k-th nearest neighbour: [N], float64."""
    if len(features) <= k:
        raise DataError(
            f"precision and recall need more than {k} images in each set, got {len(features)}; add images."
        )
    # The nearest vector is the vector itself, at distance 0.
    radii = [
        _distances(block, features).kthvalue(k + 1, dim=1).values
        for block in progress(features.split(BLOCK), "radii of the neighbours")
    ]
    return torch.cat(radii)


def share_inside(features: Tensor, manifold: Tensor, radii: Tensor) -> float:
    """Share of ``features`` [N, F] inside the manifold; 0..1.

    A vector is inside if it lies within the radius of any vector of ``manifold`` [M, F].

    Args:
        radii: radius of each vector of the manifold [M].
    """
    inside = [
        (_distances(block, manifold) <= radii).any(dim=1)
        for block in progress(features.split(BLOCK), "precision and recall")
    ]
    return float(torch.cat(inside).double().mean())


def precision_recall(features: Tensor, reference: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision and recall, both in 0..1.

    Precision is the share of generated images inside the manifold of the real images.
    Recall is the share of real images inside the manifold of the generated images.

    Args:
        features: features of the generated images [N, F].
        reference: features of the real images [M, F].
        k: number of the neighbour whose distance is the radius.

    Raises:
        DataError: a set has k images or fewer.
    """
    precision = share_inside(features, reference, manifold_radii(reference, k))
    recall = share_inside(reference, features, manifold_radii(features, k))
    return precision, recall
