"""Kernel Inception Distance: unbiased squared MMD with a cubic kernel, averaged over feature subsets.

Source: Bińkowski et al., Demystifying MMD GANs (arXiv:1801.01401).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from mar_accel.errors import DataError
from mar_accel.utils.progress import progress


def kernel_distance(
    features: Tensor, reference: Tensor, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID and its standard deviation over subsets; the defaults are the published 100 subsets of 1,000.

    If both sets have at most ``subset_size`` vectors and equal size, the whole sets are compared once.

    Args:
        features: features of the generated images [N, F].
        reference: features of the real images [M, F].
        num_subsets: number of subset pairs that are compared.
        subset_size: vectors per subset, at least 2; limited to the size of the smaller set.
        seed: seed for the choice of the subsets.

    Raises:
        DataError: a set has fewer than two vectors.
    """
    size = min(subset_size, len(features), len(reference))
    if size < 2:
        raise DataError(
            f"KID needs at least 2 images in each set, got {len(features)} and {len(reference)}; add images."
        )
    if size == len(features) == len(reference):
        num_subsets = 1  # every subset would be the whole set
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in progress(range(num_subsets), "KID"):
        chosen = features[torch.randperm(len(features), generator=generator)[:size]]
        real = reference[torch.randperm(len(reference), generator=generator)[:size]]
        values.append(float(poly_mmd(real.double(), chosen.double())))
    distances = torch.tensor(values, dtype=torch.float64)
    return float(distances.mean()), float(distances.std(correction=0))
