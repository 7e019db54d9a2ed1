"""Paired differences: coverage, narrower than apart, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from mar_accel.errors import DataError
from mar_accel.metrics.frechet import frechet_distance, gaussian_statistics
from mar_accel.metrics.paired import (
    paired_fid_difference,
    paired_mean_difference,
    paired_share_difference,
)

LABELS = torch.arange(4).repeat(30)


def _covers(difference: object) -> bool:
    return difference.low <= 0 <= difference.high  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["share", "score"])
def test_two_seeds_of_one_setting_cover_zero_in_about_95_percent(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    covered, trials = 0, 400
    for trial in range(trials):
        if kind == "share":
            found = paired_share_difference(*(torch.rand(2, 120, generator=generator) < 0.85))
        else:
            first, second = torch.rand(2, 120, generator=generator) ** 0.2
            found = paired_mean_difference(first, second, LABELS, draws=200, seed=trial)
        covered += _covers(found)
    # 95 % with four standard errors of 400 trials on both sides.
    assert 0.905 <= covered / trials <= 0.995


def test_a_share_without_differing_pairs_still_has_an_interval() -> None:
    same = torch.arange(150) != 7
    found = paired_share_difference(same, same)
    assert found.difference == 0 and found.low == pytest.approx(-found.high)
    # Three of N is about the largest share of which N draws show nothing in 95 % of all cases.
    assert 1 / 150 < found.high < 3 / 150 and 1 < found.narrower < 2
    lost = same & (torch.arange(150) > 20)
    assert paired_share_difference(lost, same).high < 0 < paired_share_difference(same, lost).low


def test_two_seeds_cover_zero_in_their_fid() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = gaussian_statistics(torch.randn(5000, 3, generator=generator))
    covered, trials = 0, 120
    for trial in range(trials):
        ours, theirs = torch.randn(2, 120, 3, generator=generator)
        covered += _covers(paired_fid_difference(ours, theirs, reference, draws=100, seed=trial))
    assert 0.86 <= covered / trials <= 1.0


def test_common_random_numbers_make_the_interval_narrower() -> None:
    generator = torch.Generator().manual_seed(0)
    hard = torch.randn(120, generator=generator)
    ours, theirs = (hard + 0.1 * torch.randn(120, generator=generator) + shift for shift in (0.2, 0.0))
    found = paired_mean_difference(ours, theirs, LABELS)
    assert found.difference == pytest.approx(float(ours.mean() - theirs.mean()))
    assert found.low > 0.1 and found.high < 0.3 and found.narrower > 5
    apart = paired_mean_difference(ours, torch.randn(120, generator=generator), LABELS)
    assert apart.narrower == pytest.approx(1, abs=0.25)
    same = paired_mean_difference(ours, ours)
    assert (same.low, same.high, same.narrower) == (0, 0, float("inf"))


def test_the_fid_of_all_images_is_not_shifted_by_the_draws() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(200, 3, generator=generator)
    reference = gaussian_statistics(torch.randn(2000, 3, generator=generator))
    found = paired_fid_difference(features, features * 1.02, reference, draws=50)
    assert found.ours == pytest.approx(frechet_distance(gaussian_statistics(features), reference))
    assert found.low < found.difference < found.high and found.narrower > 1.2


def test_images_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="same sample indices"):
        paired_mean_difference(torch.rand(3), torch.rand(4))
    with pytest.raises(DataError, match="at least 2 images"):
        paired_mean_difference(torch.rand(1), torch.rand(1))
