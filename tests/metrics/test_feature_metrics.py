"""Inception Score, KID, precision and recall against brute force on small sets."""

from __future__ import annotations

import math

import pytest
import torch

from mar_accel.errors import DataError
from mar_accel.metrics import precision_recall as precision_recall_module
from mar_accel.metrics.inception_score import inception_score
from mar_accel.metrics.kid import kernel_distance
from mar_accel.metrics.precision_recall import precision_recall
from mar_accel.metrics.recognised import recognised


def test_inception_score_equals_its_definition() -> None:
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * 2
    p = logits.double().softmax(dim=1)
    marginal = [sum(float(p[i, c]) for i in range(12)) / 12 for c in range(5)]
    divergence = sum(
        float(p[i, c]) * (math.log(float(p[i, c])) - math.log(marginal[c]))
        for i in range(12)
        for c in range(5)
    )
    score, deviation = inception_score(logits, num_splits=1)
    assert score == pytest.approx(math.exp(divergence / 12), rel=1e-10)
    assert deviation == 0


def test_inception_score_of_sorted_classes_is_that_of_shuffled_ones() -> None:
    """Sure and balanced over 4 classes: 4, even though every tenth of the sorted list has one class."""
    logits = torch.eye(4).repeat_interleave(1000, dim=0) * 100
    score, _ = inception_score(logits)
    assert score == pytest.approx(4, rel=0.01)


def test_kid_equals_its_definition() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(7, 3, generator=generator), torch.randn(7, 3, generator=generator) + 0.5

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a.double() @ b.double()) / 3 + 1) ** 3

    same = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    cross = sum(kernel(a, b) for a in x for b in y) / 49
    value, _ = kernel_distance(x, y)
    assert value == pytest.approx(same - 2 * cross, rel=1e-9)


def _brute_force(features: torch.Tensor, reference: torch.Tensor, k: int) -> tuple[float, float]:
    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))

    def share(points: torch.Tensor, manifold: torch.Tensor) -> float:
        radii = [
            sorted(distance(m, o) for j, o in enumerate(manifold) if j != i)[k - 1]
            for i, m in enumerate(manifold)
        ]
        inside = [any(distance(p, m) <= r for m, r in zip(manifold, radii, strict=True)) for p in points]
        return sum(inside) / len(inside)

    return share(features, reference), share(reference, features)


@pytest.mark.parametrize("seed", range(3))
def test_precision_and_recall_equal_brute_force(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_recall_module, "BLOCK", 7)  # several blocks
    generator = torch.Generator().manual_seed(seed)
    generated = torch.randn(25, 3, generator=generator) * 0.7
    real = torch.randn(30, 3, generator=generator)
    assert precision_recall(generated, real, k=3) == pytest.approx(_brute_force(generated, real, 3))


def test_precision_and_recall_at_the_extremes() -> None:
    real = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real + 100, real) == (0.0, 0.0)
    precision, recall = precision_recall(real[:1].expand(10, 4), real)
    assert precision == 1 and recall <= 1 / 40 + 1e-9  # one image over and over


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="more than 3"):
        precision_recall(torch.randn(3, 2), torch.randn(10, 2))
    with pytest.raises(DataError, match="at least 2"):
        kernel_distance(torch.randn(1, 2), torch.randn(10, 2))


def test_recognised_share_and_error() -> None:
    logits = torch.eye(4)[[0, 1, 2, 3, 0]]
    share, error = recognised(logits, torch.tensor([0, 1, 2, 3, 1]))
    assert share == pytest.approx(0.8)
    assert error == pytest.approx(math.sqrt(0.8 * 0.2 / 5))
