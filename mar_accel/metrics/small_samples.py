"""How far the FID of few images can be trusted: its bias and its standard error.

Images are sampled with a fixed number per class, so neither number may count the chance of drawing a class
more or less often. On the features of digits, where classes lie far apart, it would be most of both.
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
# The FID of a single draw of digits scatters by a sixth of its mean.
BIAS_DRAWS = 5


@dataclass
class Bias:
    """How much a FID is biased upwards: what images without any fault would get.

    Attributes:
        value: their FID. drawn: what they were, to be read after "so many".
    """

    value: float
    drawn: str


def fid_bias(reference: Reference, labels: Tensor, seed: int = 0) -> Bias:
    """The FID that a perfect generator would get with images of these classes.

    Real images with the same classes where the reference knows its own, else independent draws from the
    reference's Gaussian.

    Args:
        labels: classes of the generated images [N], −1 where not known.
    """
    if reference.features is not None and reference.labels is not None and _covers(reference.labels, labels):
        value = bias_of_real_images(reference.features, reference.labels, reference.statistics, labels, seed)
        return Bias(value, "real images of the same classes")
    value = bias_of_gaussian_draws(reference.statistics, len(labels), seed)
    return Bias(value, "independent draws from the reference's Gaussian")


def _covers(known: Tensor, labels: Tensor) -> bool:
    """Whether every one of the labels is known and occurs in the reference."""
    return bool((labels >= 0).all() and torch.isin(labels, known).all())


def bias_of_real_images(
    features: Tensor, classes: Tensor, statistics: GaussianStatistics, labels: Tensor, seed: int = 0
) -> float:
    """Mean FID of draws (with replacement) from real images, with the class counts of ``labels``.

    Args:
        features: of real images [M, F]. classes: theirs [M], every one of ``labels`` among them.
        statistics: what the draws are compared with. labels: classes of the generated images [N].
    """
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in progress(range(BIAS_DRAWS), "bias of the FID"):
        drawn = features[draw_of_classes(classes, labels, generator)]
        distances.append(frechet_distance(gaussian_statistics(drawn), statistics))
    return sum(distances) / len(distances)


def draw_of_classes(classes: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Random indices into ``classes`` [M], with replacement: of each class as many as in ``labels`` [N]."""
    drawn = []
    for label, count in zip(*labels.unique(return_counts=True), strict=True):
        members = (classes == label).nonzero().flatten()
        drawn.append(members[torch.randint(len(members), (int(count),), generator=generator)])
    return torch.cat(drawn)


def bias_of_gaussian_draws(reference: GaussianStatistics, num_images: int, seed: int = 0) -> float:
    """FID of so many independent draws from the reference's Gaussian, compared with it."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(num_images, reference.dim, dtype=torch.float64, generator=generator)
    drawn = reference.mean + normal @ matrix_square_root(reference.covariance.double())
    return frechet_distance(gaussian_statistics(drawn), reference)


def fid_standard_error(
    features: Tensor, reference: GaussianStatistics, labels: Tensor | None = None
) -> float | None:
    """Standard error of the FID by leaving out a tenth of the images at a time (grouped jackknife).

    Args:
        features: of the images [N, F].
        labels: their classes [N], taken as fixed; None or any −1: as if classes had been drawn as well,
            which overstates the error of samples with a fixed number per class. So does a class with
            fewer than ten images, as some groups have to go without it.

    Returns:
        None where fewer than 40 images make the groups too small to say anything.
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
    """Indices of the images in each of ten groups, whose sizes differ by at most one.

    With labels [N], so do the counts of each class.
    """
    # Shuffled, as images come in the order of their classes.
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(0))
    if labels is None or (labels < 0).any():
        return list(order.tensor_split(JACKKNIFE_GROUPS))
    # Dealt in turn, class after class: each class starts where the one before ended, so that no group
    # gets the odd images of all of them.
    order = order[labels[order].argsort(stable=True)]
    return [order[start::JACKKNIFE_GROUPS] for start in range(JACKKNIFE_GROUPS)]
