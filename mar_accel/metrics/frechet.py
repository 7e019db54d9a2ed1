"""Fréchet distance between Gaussians fitted to features (FID), in float64.

Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule (arXiv:1706.08500).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mar_accel.errors import DataError


@dataclass
class GaussianStatistics:
    """Mean and covariance of a set of feature vectors.

    Attributes:
        mean: [F], float64.
        covariance: [F, F], float64, unbiased (divided by N − 1).
        count: number of vectors N; None if the source file does not state it.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None

    @property
    def dim(self) -> int:
        """Number of features F."""
        return self.mean.shape[0]


class RunningStatistics:
    """Mean and covariance of features that arrive in batches; results of several devices can be merged.

    It keeps the count, the mean and the scatter matrix around the mean (Chan et al.).
    Thus a large mean costs no precision.

    Example:
        >>> statistics = RunningStatistics(64).update(features).finish()  # features: [B, 64]
    """

    def __init__(self, dim: int):
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Tensor) -> RunningStatistics:
        """Add features [B, F] of any float dtype and on any device."""
        if len(features):
            batch = RunningStatistics(features.shape[1])
            values = features.detach().cpu().double()
            batch.count, batch.mean = len(values), values.mean(dim=0)
            centred = values - batch.mean
            batch.scatter = centred.T @ centred
            self.merge(batch)
        return self

    def merge(self, other: RunningStatistics) -> RunningStatistics:
        """Add the features that another batch or device has collected."""
        total = self.count + other.count
        if total:
            difference = other.mean - self.mean
            weight = self.count * other.count / total
            self.scatter += other.scatter + weight * torch.outer(difference, difference)
            self.mean = self.mean + difference * (other.count / total)
            self.count = total
        return self

    def finish(self) -> GaussianStatistics:
        """Statistics of all features added so far; raises DataError for fewer than two vectors."""
        if self.count < 2:
            raise DataError(f"a covariance needs at least 2 images, got {self.count}; add more images.")
        return GaussianStatistics(self.mean, self.scatter / (self.count - 1), self.count)


def gaussian_statistics(features: Tensor) -> GaussianStatistics:
    """Statistics of features [N, F]."""
    return RunningStatistics(features.shape[1]).update(features).finish()


def matrix_square_root(covariance: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix.

    Negative eigenvalues can only come from rounding and count as zero.
    """
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """Fréchet distance ‖μ_a − μ_b‖² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½).

    It is symmetric, and 0 for equal statistics.
    The trace of (Σ_a Σ_b)^½ is computed as the sum of the singular values of Σ_a^½ Σ_b^½.
    This avoids the square root of a non-symmetric matrix and is exact for singular covariances.

    Raises:
        DataError: the statistics have different numbers of features.
    """
    if a.dim != b.dim:
        raise DataError(
            f"statistics of {a.dim} features cannot be compared with statistics of {b.dim} features; "
            "choose the features that the reference was computed with."
        )
    roots = matrix_square_root(a.covariance.double()) @ matrix_square_root(b.covariance.double())
    trace_of_root = torch.linalg.svdvals(roots).sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    # A distance below zero can only come from rounding.
    return max(0.0, float(distance - 2 * trace_of_root))
