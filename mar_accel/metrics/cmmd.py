"""CMMD: squared maximum mean discrepancy of CLIP embeddings with a Gaussian kernel.

Source: Jayasumana et al., Rethinking FID (arXiv:2401.09603).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mar_accel.errors import DataError

SIGMA, SCALE = 10.0, 1000.0
BLOCK = 1024


def cmmd(features: Tensor, reference: Tensor, sigma: float = SIGMA) -> float:
    """1000 · MMD² of two sets of embeddings with the kernel exp(−‖x − y‖²/(2σ²)).

    It is the biased estimate, as published: pairs of a vector with itself count.

    Args:
        features: embeddings of the generated images [N, F], of unit length.
        reference: embeddings of the real images [M, F].
        sigma: bandwidth σ; 10 as published.

    Raises:
        DataError: a set is empty.
    """
    if not len(features) or not len(reference):
        raise DataError(f"CMMD needs images in both sets, got {len(features)} and {len(reference)}.")
    x, y = features.double(), reference.double()
    value = _mean_kernel(x, x, sigma) + _mean_kernel(y, y, sigma) - 2 * _mean_kernel(x, y, sigma)
    return SCALE * value


def _mean_kernel(x: Tensor, y: Tensor, sigma: float) -> float:
    """Mean kernel of all pairs. Blocks of rows keep the memory small."""
    total = 0.0
    for rows in x.split(BLOCK):
        # Differences of squared norms would cancel at σ = 10, where all kernels are near one.
        distances = torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist").square()
        total += float(torch.exp(-distances / (2 * sigma**2)).sum())
    return total / (len(x) * len(y))
