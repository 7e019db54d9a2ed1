"""Bias and standard error of the FID of few images.

Images are sampled with a fixed number per class.
So neither value may include the variation that random class counts would cause.
For digit features, whose classes lie far apart, this variation would dominate both values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mar_accel.metrics.frechet import (
    GaussianStatistics,
    RunningStatistics,
    frechet_distance,
    gaussian_statistics,
    matrix_square_root,
)
from mar_accel.metrics.reference import Reference
from mar_accel.utils.progress import progress

JACKKNIFE_GROUPS = 10
# The standard deviation of the FID of one draw of digits is a sixth of its mean.
BIAS_DRAWS = 5


@dataclass
class Bias:
    """Upward bias of a FID: the FID that faultless images would get.

    Attributes:
        value: FID of the faultless images.
        drawn: what these images were, as text that follows their number.
    """

    value: float
    drawn: str


def fid_bias(reference: Reference, labels: Tensor, seed: int = 0) -> Bias:
    """FID that a perfect generator would get with images of these classes.

    If all labels are known and occur in the reference, real images of the same classes are drawn.
    Otherwise independent vectors are drawn from the reference's Gaussian.

    Args:
        reference: the real images.
        labels: classes of the generated images [N], −1 if unknown.
        seed: seed of the draws.
    """
    if reference.features is not None and reference.labels is not None and _covers(reference.labels, labels):
        value = bias_of_real_images(reference.features, reference.labels, reference.statistics, labels, seed)
        return Bias(value, "real images of the same classes")
    value = bias_of_gaussian_draws(reference.statistics, len(labels), seed)
    return Bias(value, "independent draws from the reference's Gaussian")


def _covers(known: Tensor, labels: Tensor) -> bool:
    """Whether all labels are known and occur in the reference."""
    return bool((labels >= 0).all() and torch.isin(labels, known).all())


def bias_of_real_images(
    features: Tensor, classes: Tensor, statistics: GaussianStatistics, labels: Tensor, seed: int = 0
) -> float:
    """Mean FID of draws with replacement from real images, with the class counts of ``labels``.

    Args:
        features: features of the real images [M, F].
        classes: classes of the real images [M]; they include all ``labels``.
        statistics: statistics that the draws are compared with.
        labels: classes of the generated images [N].
        seed: seed of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in progress(range(BIAS_DRAWS), "bias of the FID"):
        drawn = features[draw_of_classes(classes, labels, generator)]
        distances.append(frechet_distance(gaussian_statistics(drawn), statistics))
    return sum(distances) / len(distances)


def draw_of_classes(classes: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Random indices [N] into ``classes`` [M], drawn with replacement.

    Each class is drawn as often as it occurs in ``labels`` [N].
    """
    drawn = []
    for label, count in zip(*labels.unique(return_counts=True), strict=True):
        members = (classes == label).nonzero().flatten()
        drawn.append(members[torch.randint(len(members), (int(count),), generator=generator)])
    return torch.cat(drawn)


def bias_of_gaussian_draws(reference: GaussianStatistics, num_images: int, seed: int = 0) -> float:
    """FID of ``num_images`` independent draws from the reference's Gaussian against the reference."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(num_images, reference.dim, dtype=torch.float64, generator=generator)
    drawn = reference.mean + normal @ matrix_square_root(reference.covariance.double())
    return frechet_distance(gaussian_statistics(drawn), reference)


def fid_standard_error(
    features: Tensor, reference: GaussianStatistics, labels: Tensor | None = None
) -> float | None:
    """Standard error of the FID by a grouped jackknife, which leaves out one tenth of the images at a time.

    Args:
        features: features of the images [N, F].
        reference: statistics of the real images.
        labels: classes of the images [N], whose counts are taken as fixed.
            None, or any −1: class counts are taken as random.
            This overstates the error of samples with a fixed number per class.
            A class with fewer than ten images has the same effect, since some groups lack it.

    Returns:
        The standard error; None for fewer than 40 images, since the groups would be too small.
    """
    if len(features) < 4 * JACKKNIFE_GROUPS:
        return None
    groups = [
        RunningStatistics(features.shape[1]).update(features[members])
        for members in jackknife_groups(len(features), labels)
    ]
    distances = []
    for left_out in progress(range(JACKKNIFE_GROUPS), "standard error of the FID"):
        rest = RunningStatistics(features.shape[1])
        for number, group in enumerate(groups):
            if number != left_out:
                rest.merge(group)
        distances.append(frechet_distance(rest.finish(), reference))
    mean = sum(distances) / len(distances)
    spread = sum((distance - mean) ** 2 for distance in distances)
    return math.sqrt((JACKKNIFE_GROUPS - 1) / JACKKNIFE_GROUPS * spread)


def jackknife_groups(num_images: int, labels: Tensor | None) -> list[Tensor]:
    """Indices of the images in each of ten groups.

    The sizes of the groups differ by at most one.
    With known labels [N], the counts of each class also differ by at most one.
    """
    # Shuffled because images may be sorted by class.
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(0))
    if labels is None or (labels < 0).any():
        return list(order.tensor_split(JACKKNIFE_GROUPS))
    # Images are dealt to the groups in turn, class by class. Each class starts at the group where the
    # previous class ended, so that no group gets the remainders of all classes.
    order = order[labels[order].argsort(stable=True)]
    return [order[start::JACKKNIFE_GROUPS] for start in range(JACKKNIFE_GROUPS)]
