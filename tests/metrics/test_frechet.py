"""FID against independent computations, and its independence of how the features were split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mar_accel.errors import DataError
from mar_accel.metrics.frechet import (
    GaussianStatistics,
    RunningStatistics,
    frechet_distance,
    gaussian_statistics,
)


def _features(count: int, dim: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator)
    return torch.randn(count, dim, generator=generator) @ mixing + 3 * torch.randn(dim, generator=generator)


def _scipy_fid(a: torch.Tensor, b: torch.Tensor) -> float:
    from scipy.linalg import sqrtm

    x, y = a.double().numpy(), b.double().numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(s @ t).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root))


@pytest.mark.parametrize("dim", [2, 16, 64])
def test_equals_scipy(dim: int) -> None:
    a, b = _features(500, dim, seed=1), _features(300, dim, seed=2)
    ours = frechet_distance(gaussian_statistics(a), gaussian_statistics(b))
    assert ours == pytest.approx(_scipy_fid(a, b), rel=1e-6)


def test_equals_the_closed_form_of_diagonal_gaussians() -> None:
    mean_a, mean_b = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 0.5])
    dev_a, dev_b = torch.tensor([1.0, 2.0, 0.1]), torch.tensor([3.0, 0.5, 0.1])
    a = GaussianStatistics(mean_a.double(), torch.diag(dev_a.double() ** 2))
    b = GaussianStatistics(mean_b.double(), torch.diag(dev_b.double() ** 2))
    closed_form = ((mean_a - mean_b) ** 2).sum() + ((dev_a.double() - dev_b.double()) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(float(closed_form), rel=1e-12)


def test_equals_the_closed_form_of_commuting_covariances() -> None:
    """Σ_b = c²Σ_a: the distance of covariances is (1 − c)² Tr Σ_a."""
    a = gaussian_statistics(_features(200, 8, seed=3))
    b = GaussianStatistics(a.mean, a.covariance * 4)
    assert frechet_distance(a, b) == pytest.approx(float(a.covariance.trace()), rel=1e-9)


def test_singular_covariances_and_equal_sets() -> None:
    few = _features(10, 64, seed=4)
    a, b = gaussian_statistics(few), gaussian_statistics(few + 1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(a, b) == pytest.approx(64, rel=1e-6)


def test_streaming_and_devices_equal_one_pass() -> None:
    features = _features(1000, 32, seed=5) + 1000  # a large mean costs naive sums their precision
    whole = gaussian_statistics(features)
    devices = [RunningStatistics(32) for _ in range(3)]
    for number, batch in enumerate(features.split(37)):
        devices[number % 3].update(batch)
    merged = RunningStatistics(32)
    for device in devices:
        merged.merge(device)
    parts = merged.finish()
    assert parts.count == 1000
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.covariance, whole.covariance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        whole.covariance.numpy(), np.cov(features.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-9
    )


def test_refuses_other_dimensions_and_single_images() -> None:
    with pytest.raises(DataError, match="8 features cannot be compared with statistics of 16"):
        frechet_distance(gaussian_statistics(_features(20, 8, 0)), gaussian_statistics(_features(20, 16, 0)))
    with pytest.raises(DataError, match="at least 2"):
        gaussian_statistics(torch.zeros(1, 4))
