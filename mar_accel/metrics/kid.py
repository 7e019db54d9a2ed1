"""Kernel Inception Distance: unbiased squared MMD under a cubic kernel, over subsets of the features.

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
    """KID and its standard deviation over subsets (100 of 1,000, as published).

    Args:
        features: of the generated images [N, F]. reference: of the real ones [M, F].
        num_subsets: how many subsets of each set are compared.
        subset_size: vectors of a subset, at least 2; fewer where a set is smaller.
        seed: of the choice of the subsets.

    Raises:
        DataError: a set has fewer than two vectors.
    """
    size = min(subset_size, len(features), len(reference))
    if size < 2:
        raise DataError(
            f"KID of {len(features)} and {len(reference)} images is undefined; give at least 2 of each."
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
