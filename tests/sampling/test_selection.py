"""Tokens with their own number of diffusion steps: which are chosen, and what that costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mar_accel.analysis.plan_view import head_evaluations
from mar_accel.models.diffusion_head import FinalLayer
from mar_accel.models.mar import MAR
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.diffusion_steps import StageAwareDiffusionSteps
from mar_accel.sampling.guidance import LinearGuidance
from mar_accel.sampling.noise import draw_noise
from mar_accel.sampling.orders import BisectionOrder
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.policy import NoCache
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.selection import (
    AllTokens,
    FrequencySelection,
    NoSelection,
    RandomSelection,
    TokenSelection,
    frequency_scores,
)
from mar_accel.sampling.solvers import DDPM
from mar_accel.sampling.step_sizes import StageSteps

from ..tiny import tiny_config

CONFIG = tiny_config(grid=(6, 6))
T_REC, T_DETAIL = 4, 9


@pytest.fixture(scope="module")
def model() -> MAR:
    torch.manual_seed(0)
    model = MAR(CONFIG).eval()
    # Without this the head's residual branches and output are zero, as before any training.
    for parameter in model.diffloss.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def _sample(model: MAR, selection: TokenSelection) -> tuple[Tensor, Tensor, Plan]:
    """Tokens in grid order and orders of two images; only the last step decodes the last stage."""
    sampler = Sampler(
        order=BisectionOrder(3),
        step_sizes=StageSteps(None, steps=[2, 1, 1]),
        guidance_schedule=LinearGuidance(),
        diffusion_steps=StageAwareDiffusionSteps(6, 5, T_REC),
        solver=DDPM(),
        selection=selection,
        guidance_scale=2.0,
    )
    plan = sampler.plan(CONFIG.grid)
    noise = sampler.draw(plan, 0, [0, 1], CONFIG.token_dim)
    # The longest chain decides how many noise vectors are drawn, but not which.
    tokens = decode(
        Engine(model, plan, sampler.solver, NoCache(), selection),
        model.condition(torch.arange(2)),
        noise,
    )
    return tokens, noise.order, plan


@pytest.mark.parametrize(
    "selection",
    [
        FrequencySelection(0.25, T_DETAIL),
        FrequencySelection(0.25, T_DETAIL, lowest=True),
        RandomSelection(0.25, T_DETAIL),
    ],
)
def test_chosen_tokens_get_their_chain_and_no_other_changes(model: MAR, selection: TokenSelection) -> None:
    mixed, order, plan = _sample(model, selection)
    detailed, _, _ = _sample(model, AllTokens(T_DETAIL))
    plain, _, _ = _sample(model, NoSelection())
    last = plan.steps[-1]
    known, predicted = order[:, : last.start], order[:, last.start :]
    scores = selection.scores(_z(model, mixed, known, predicted), _random_scores(order, predicted))
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen.scatter_(1, scores.topk(last.num_detail_tokens, dim=1).indices, True)
    assert last.num_detail_tokens == round(0.25 * last.num_tokens) > 0
    index = predicted.unsqueeze(-1).expand(-1, -1, CONFIG.token_dim)
    expected = torch.where(chosen.unsqueeze(-1), detailed.gather(1, index), plain.gather(1, index))
    torch.testing.assert_close(mixed.gather(1, index), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(detailed.gather(1, index), plain.gather(1, index), atol=1e-3)


def _z(model: MAR, tokens: Tensor, known: Tensor, predicted: Tensor) -> Tensor:
    values = tokens.gather(1, known.unsqueeze(-1).expand(-1, -1, CONFIG.token_dim))
    with torch.inference_mode():
        return model(model.condition(torch.arange(2)), values, known, predicted)


def _random_scores(order: Tensor, predicted: Tensor) -> Tensor:
    _, scores = draw_noise(0, [0, 1], order.shape[1], CONFIG.token_dim, 0)
    return scores.gather(1, predicted)


def test_no_head_evaluation_is_wasted(model: MAR, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 0
    modulated = FinalLayer.modulated

    def counted(layer: FinalLayer, x: Tensor, *modulation: Tensor) -> Tensor:
        nonlocal rows
        rows += x.shape[0]
        return modulated(layer, x, *modulation)

    monkeypatch.setattr(FinalLayer, "modulated", counted)
    _, _, plan = _sample(model, FrequencySelection(0.25, T_DETAIL))
    images, branches = 2, 2
    assert rows == images * branches * sum(head_evaluations(plan, step) for step in plan.steps)


def test_frequency_scores_follow_their_definition() -> None:
    z = torch.randn(3, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    magnitudes = torch.fft.fft(z, dim=-1).abs()
    expected = sum(magnitudes[:, n] * (1 + n / 5) for n in range(1, 6))
    torch.testing.assert_close(frequency_scores(z).double(), expected, rtol=1e-5, atol=1e-5)


def test_scores_of_a_whole_batch_are_those_of_each_image() -> None:
    z = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(frequency_scores(z)[1], frequency_scores(z[1]))
    assert frequency_scores(z.bfloat16()).dtype == torch.float32


def test_share_is_of_the_tokens_of_a_step() -> None:
    selection = FrequencySelection(0.1, 50)
    assert [selection.num_selected(n) for n in (1, 6, 64, 128)] == [0, 1, 6, 13]
    assert AllTokens(50).num_selected(7) == 7 and NoSelection().num_selected(7) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_are_float32_under_every_precision(dtype: torch.dtype) -> None:
    """A Trainer sets the default dtype to its precision, or casts products to it."""
    z = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    expected = frequency_scores(z)
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(frequency_scores(z), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(frequency_scores(z), expected)
