"""Differences of two methods on common random numbers, with intervals over the sample indices.

Image i of both methods comes from the same class and the same noise. What makes it easy or hard is common to
both and cancels in the difference, whose interval is therefore narrower than those of the two numbers.
Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from mar_accel.errors import DataError
from mar_accel.metrics.frechet import GaussianStatistics, frechet_distance
from mar_accel.metrics.intervals import CONFIDENCE

DRAWS = 1000
# A Fréchet distance takes milliseconds for 64 features and seconds for 2,048.
FID_DRAWS = 300
MAX_FID_FEATURES = 512
# Classes are drawn by themselves if each has at least this number of images.
SMALLEST_CLASS = 5
_MOST_WEIGHTS = 2_000_000


@dataclass(frozen=True)
class PairedDifference:
    """The difference of a number between two methods, ours minus theirs.

    Attributes:
        ours, theirs: the number of each method.
        low, high: bounds of the 95 % interval of the difference.
        unpaired_width: width of the interval if the images of the methods had nothing in common.
        count: number of pairs N.
    """

    ours: float
    theirs: float
    low: float
    high: float
    unpaired_width: float
    count: int

    @property
    def difference(self) -> float:
        """Ours minus theirs."""
        return self.ours - self.theirs

    @property
    def narrower(self) -> float:
        """How many times as wide the interval would be without pairing; infinite for equal images."""
        width = self.high - self.low
        return self.unpaired_width / width if width > 0 else float("inf")


def paired_mean_difference(
    ours: Tensor, theirs: Tensor, labels: Tensor | None = None, draws: int = DRAWS, seed: int = 0
) -> PairedDifference:
    """The difference of two means over the same sample indices, such as that of a score.

    Args:
        ours, theirs: a value per image [N], in the order of the sample indices.
        labels: class of each image [N]; each class is drawn by itself, as its count is fixed, unless one has
            fewer than five images. None: unknown.
        draws: number of bootstrap draws.
        seed: seed of the draws.

    Raises:
        DataError: there are fewer than two pairs, or the images do not match.

    Example:
        >>> paired_mean_difference(torch.tensor([0.8, 0.2, 0.8]), torch.tensor([0.9, 0.3, 0.9])).difference
        -0.1...
    """
    _check(len(ours), len(theirs), labels)
    a, b = ours.double(), theirs.double()

    def means(weights: Tensor) -> Tensor:
        return torch.stack([weights @ a, weights @ b], dim=1) / weights.sum(dim=1, keepdim=True)

    return _paired(means, len(a), labels, draws, seed)


def mean_by_label(values: Tensor, labels: Tensor) -> Tensor:
    """Mean value [M] of the images of each label, from values [N] and labels [N].

    Example:
        >>> mean_by_label(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([4, 4, 9]))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    _, places, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, places, values.double())
    return sums / counts


def paired_share_difference(ours: Tensor, theirs: Tensor) -> PairedDifference:
    """The difference of two shares over the same sample indices, such as that of recognised images.

    The interval is an adjusted Wald interval, since few images are recognised with one method and not with
    the other. If there are none, a bootstrap interval would have no width.
    Source: Bonett and Price (J. Educ. Behav. Stat. 2012); unpaired, Agresti and Caffo (Am. Stat. 2000).

    Args:
        ours, theirs: whether each image has the property, bool [N], in the order of the sample indices.

    Example:
        >>> same = torch.ones(100, dtype=torch.bool)
        >>> paired_share_difference(same, same).high  # 100 of 100 in both
        0.027...
    """
    _check(len(ours), len(theirs), None)
    a, b, count = ours.bool(), theirs.bool(), len(ours)
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    gained, lost = ((int(pairs.sum()) + 1) / (count + 2) for pairs in (a & ~b, b & ~a))
    half = z * math.sqrt((gained + lost - (gained - lost) ** 2) / (count + 2))
    shares = [(int(own.sum()) + 1) / (count + 2) for own in (a, b)]
    apart = z * math.sqrt(sum(share * (1 - share) for share in shares) / (count + 2))
    centre = gained - lost
    means = float(a.double().mean()), float(b.double().mean())
    return PairedDifference(*means, max(-1.0, centre - half), min(1.0, centre + half), 2 * apart, count)


def paired_fid_difference(
    ours: Tensor,
    theirs: Tensor,
    reference: GaussianStatistics,
    labels: Tensor | None = None,
    draws: int = FID_DRAWS,
    seed: int = 0,
) -> PairedDifference:
    """The difference of two Fréchet distances to the same reference.

    Draws with replacement raise both distances by about the same amount. So the interval is that of the draws
    around their own mean, moved to the difference of the images themselves.

    Args:
        ours, theirs: features of the images [N, F], in the order of the sample indices.
        reference: statistics of the real images.
        labels, draws, seed: as in :func:`paired_mean_difference`.
    """
    _check(len(ours), len(theirs), labels)
    a, b = ours.double(), theirs.double()

    def distances(weights: Tensor) -> Tensor:
        found = [[frechet_distance(_weighted(x, own), reference) for x in (a, b)] for own in weights]
        return torch.tensor(found, dtype=torch.float64)

    return _paired(distances, len(a), labels, draws, seed)


def _paired(
    numbers: Callable[[Tensor], Tensor], count: int, labels: Tensor | None, draws: int, seed: int
) -> PairedDifference:
    """The difference with intervals from draws that give both methods the same weights.

    Args:
        numbers: the numbers of both methods [D, 2] for the weights [D, N] of some draws.
        count: number of pairs N.
        labels, draws, seed: as in :func:`paired_mean_difference`.
    """
    ours, theirs = numbers(torch.ones(1, count, dtype=torch.float64))[0].tolist()
    drawn = torch.cat([numbers(weights) for weights in _weights(count, labels, draws, seed)])
    low, high = _interval(drawn[:, 0] - drawn[:, 1])
    # Independent draws of the two methods: those of theirs belong to other draws of ours.
    apart_low, apart_high = _interval(drawn[:, 0] - drawn[:, 1].roll(draws // 2))
    difference = ours - theirs
    return PairedDifference(ours, theirs, difference + low, difference + high, apart_high - apart_low, count)


def _interval(values: Tensor) -> tuple[float, float]:
    """The bounds of the middle 95 % of the draws, around their mean."""
    tail = (1 - CONFIDENCE) / 2
    centred = values - values.mean()
    low, high = torch.quantile(centred, torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return float(low), float(high)


def _weights(count: int, labels: Tensor | None, draws: int, seed: int) -> Iterator[Tensor]:
    """How often each sample index is drawn, for some draws at a time [D, N], float64.

    Each class is drawn as often as it has images. A class of few images would hardly vary, so then all are
    drawn together.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = torch.zeros(count, dtype=torch.long)
    if labels is not None and not (labels < 0).any():
        smallest = int(labels.unique(return_counts=True)[1].min())
        classes = labels if smallest >= SMALLEST_CLASS else classes
    members = [torch.nonzero(classes == label).flatten() for label in classes.unique()]
    size = max(1, _MOST_WEIGHTS // count)
    for start in range(0, draws, size):
        weights = torch.zeros(min(size, draws - start), count, dtype=torch.float64)
        for own in members:
            drawn = own[torch.randint(len(own), (len(weights), len(own)), generator=generator)]
            weights.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
        yield weights


def _weighted(features: Tensor, weights: Tensor) -> GaussianStatistics:
    """Mean and covariance of features [N, F] that count as often as their weights say."""
    total = weights.sum()
    mean = weights @ features / total
    centred = features - mean
    return GaussianStatistics(mean, (centred * weights[:, None]).T @ centred / (total - 1), int(total))


def _check(ours: int, theirs: int, labels: Tensor | None) -> None:
    if ours != theirs or (labels is not None and len(labels) != ours):
        raise DataError(f"paired images must have the same sample indices, got {ours} and {theirs}.")
    if ours < 2:
        raise DataError(f"a paired interval needs at least 2 images, got {ours}; add images.")
