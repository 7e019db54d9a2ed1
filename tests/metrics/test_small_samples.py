"""Bias and standard error of the FID of few images, against repetitions of what they describe."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mar_accel.metrics.frechet import GaussianStatistics, frechet_distance, gaussian_statistics
from mar_accel.metrics.reference import Reference
from mar_accel.metrics.small_samples import (
    JACKKNIFE_GROUPS,
    bias_of_gaussian_draws,
    draw_of_classes,
    fid_bias,
    fid_standard_error,
    jackknife_groups,
)

CLASSES = 10
DIM = 8


@pytest.fixture(scope="module")
def pool() -> Reference:
    """5,000 vectors of 10 classes that lie far apart; not in the order of the classes."""
    generator = torch.Generator().manual_seed(0)
    centres = 6 * torch.randn(CLASSES, DIM, generator=generator)
    labels = torch.randperm(5000, generator=generator) % CLASSES
    features = centres[labels] + torch.randn(5000, DIM, generator=generator)
    return Reference("clusters", gaussian_statistics(features), features, labels)


def _balanced_draws(pool: Reference, labels: Tensor, repetitions: int) -> list[Tensor]:
    """Features [N, F] of each draw, in the order of the sorted labels."""
    assert pool.features is not None and pool.labels is not None
    generator = torch.Generator().manual_seed(99)
    return [
        pool.features[draw_of_classes(pool.labels, labels, generator)].clone() for _ in range(repetitions)
    ]


def _distances(draws: list[Tensor], reference: GaussianStatistics) -> Tensor:
    return torch.tensor([frechet_distance(gaussian_statistics(draw), reference) for draw in draws])


# -- standard error --------------------------------------------------------------------------------


def test_standard_error_without_labels_is_the_spread_over_independent_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = GaussianStatistics(torch.zeros(4).double() + 1, torch.eye(4).double())
    draws = [torch.randn(500, 4, generator=generator) for _ in range(60)]
    spread = _distances(draws, reference).std()
    estimate = torch.tensor([fid_standard_error(d, reference) for d in draws[:20]]).mean()
    assert float(estimate) == pytest.approx(float(spread), rel=0.35)


@pytest.mark.parametrize("count", [100, 1000])
def test_standard_error_with_labels_is_the_spread_over_balanced_draws(pool: Reference, count: int) -> None:
    labels = torch.arange(CLASSES).repeat_interleave(count // CLASSES)
    draws, reference = _balanced_draws(pool, labels, 60), pool.statistics
    spread = float(_distances(draws, reference).std())
    labelled = torch.tensor([fid_standard_error(d, reference, labels) for d in draws[:20]]).mean()
    unlabelled = torch.tensor([fid_standard_error(d, reference) for d in draws[:20]]).mean()
    assert spread / 2 < float(labelled) < 2 * spread < float(unlabelled)


def test_one_unknown_label_counts_as_none() -> None:
    features = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    reference = GaussianStatistics(torch.zeros(3).double(), torch.eye(3).double())
    labels = torch.arange(60) % 3
    labels[5] = -1
    assert fid_standard_error(features, reference, labels) == fid_standard_error(features, reference)


@pytest.mark.parametrize("count", [40, 100, 137, 1000])
def test_groups_are_of_equal_size_and_share_each_class(count: int) -> None:
    labels = torch.randint(0, 7, (count,), generator=torch.Generator().manual_seed(count))
    for known in (labels, None):
        groups = jackknife_groups(count, known)
        assert len(groups) == JACKKNIFE_GROUPS
        assert torch.cat(groups).sort().values.tolist() == list(range(count))
        sizes = [len(group) for group in groups]
        assert max(sizes) - min(sizes) <= 1
    counts = torch.stack([labels[group].bincount(minlength=7) for group in jackknife_groups(count, labels)])
    assert int((counts.max(dim=0).values - counts.min(dim=0).values).max()) <= 1


def test_too_few_images_have_no_standard_error() -> None:
    reference = GaussianStatistics(torch.zeros(3).double(), torch.eye(3).double())
    assert fid_standard_error(torch.randn(39, 3), reference, torch.zeros(39).long()) is None


# -- bias ------------------------------------------------------------------------------------------


def test_bias_of_gaussian_draws_is_what_is_known_of_them() -> None:
    """For Σ = 1 it is known to first order: F/N from the mean, E[Tr (S − 1)²]/4 from the covariance S."""
    dim, count = 20, 400
    reference = GaussianStatistics(torch.zeros(dim).double(), torch.eye(dim).double())
    bias = bias_of_gaussian_draws(reference, count)
    first_order = dim / count + (dim**2 + dim) / (4 * count)
    assert bias == pytest.approx(first_order, rel=0.2)
    assert bias_of_gaussian_draws(reference, 40) > 5 * bias


@pytest.mark.parametrize("count", [100, 1000])
def test_bias_is_the_mean_fid_of_balanced_draws(pool: Reference, count: int) -> None:
    labels = torch.arange(count) % CLASSES  # as they are sampled, not sorted
    expected = float(_distances(_balanced_draws(pool, labels, 60), pool.statistics).mean())
    bias = fid_bias(pool, labels)
    assert bias.drawn == "real images of the same classes"
    assert bias.value == pytest.approx(expected, rel=0.3)
    assert bias_of_gaussian_draws(pool.statistics, count) > 2 * bias.value


def test_draws_have_the_class_counts_of_the_images() -> None:
    classes = torch.tensor([2, 0, 1, 2, 0, 5])
    labels = torch.tensor([2, 2, 0, 2, 2, 5])
    drawn = draw_of_classes(classes, labels, torch.Generator().manual_seed(0))
    assert classes[drawn].bincount().tolist() == labels.bincount().tolist()


@pytest.mark.parametrize("case", ["unknown label", "class of no reference image", "no labels", "no features"])
def test_bias_falls_back_on_the_gaussian(pool: Reference, case: str) -> None:
    labels = torch.arange(100) % CLASSES
    features, classes = pool.features, pool.labels
    if case == "unknown label":
        labels[3] = -1
    elif case == "class of no reference image":
        labels[3] = CLASSES
    elif case == "no labels":
        classes = None
    else:
        features = None
    bias = fid_bias(Reference("part", pool.statistics, features, classes), labels)
    assert bias.drawn == "independent draws from the reference's Gaussian"
    assert bias.value == bias_of_gaussian_draws(pool.statistics, 100)
