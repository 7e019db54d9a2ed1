"""What a training may begin with, and how it weights noisy timesteps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mar_accel.models.diffusion import add_noise, diffusion_loss, noise_weights, training_coefficients
from mar_accel.models.lightgen import LightGen, LightGenConfig
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.training.positions import begin_locally, sine_cosine_positions

SIDE, DIM, HEADS = 16, 128, 4


def test_neighbours_have_similar_positions() -> None:
    values = sine_cosine_positions(SIDE, SIDE, DIM, 0.5)
    assert values.shape == (SIDE * SIDE, DIM) and values.std().item() == pytest.approx(0.5)
    square = torch.nn.functional.normalize(values, dim=1).unflatten(0, (SIDE, SIDE))
    similar = [(square[3, 3] * square[3, 3 + distance]).sum().item() for distance in (0, 1, 2, 4)]
    assert similar == sorted(similar, reverse=True) and similar[0] - similar[-1] > 0.3
    assert (values[1:] - values[:-1]).norm(dim=1).min() > 0.1, "all positions differ"


def _small(family: str) -> Any:
    sizes: dict[str, Any] = {"grid": (SIDE, SIDE), "embed_dim": DIM, "num_heads": HEADS, "head_depth": 1}
    sizes |= {"encoder_depth": 1, "decoder_depth": 2, "head_width": 32}
    torch.manual_seed(0)
    if family == "mar":
        return MAR(MARConfig(**sizes, num_classes=3, buffer_size=4))
    return LightGen(LightGenConfig(**sizes, cross_depth=1, text_depth=1))


@pytest.mark.parametrize("family", ["mar", "lightgen"])
def test_half_of_the_heads_begin_with_attention_to_neighbours(family: str) -> None:
    model = _small(family)
    before = model.encoder_pos_embed_learned[0, : model.config.buffer_size].clone()
    begin_locally(model, 1.0)
    assert torch.equal(model.encoder_pos_embed_learned[0, : model.config.buffer_size], before)
    masked = (model.mask_token + model.decoder_pos_embed_learned)[:, model.config.buffer_size :]
    block = model.decoder_blocks[0]
    q, k, _ = block.attn.project_qkv(block.norm1(masked))
    attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)[0]
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE))
    near = (place[:, None] - place[None]).abs().sum(-1) <= 2
    mass = (attention * near).sum(-1).mean(-1)
    assert (mass[: HEADS // 2] > 0.5).all() and (mass[HEADS // 2 :] < 0.2).all(), mass


def test_weights_are_those_of_the_velocity_up_to_a_limit() -> None:
    t = torch.arange(1000)
    assert torch.equal(noise_weights(t, 1.0), torch.ones(1000))
    weights = noise_weights(t, 15.0)
    assert weights.min() >= 1 and weights.max() == 15 and (weights.diff() >= 0).all()
    # The error of the velocity sqrt(a)·noise - sqrt(1 - a)·x0, where both follow from the predicted noise.
    alphas = torch.from_numpy(training_coefficients().alphas_cumprod)[500]
    x0, noise, predicted = torch.randn(3, 1, 8, dtype=torch.float64).unbind()
    x_t = alphas.sqrt() * x0 + (1 - alphas).sqrt() * noise

    def velocity(epsilon: torch.Tensor) -> torch.Tensor:
        clean = (x_t - (1 - alphas).sqrt() * epsilon) / alphas.sqrt()
        return alphas.sqrt() * epsilon - (1 - alphas).sqrt() * clean

    error = (velocity(predicted) - velocity(noise)).square().mean()
    assert noise_weights(torch.tensor([500]), 1e9).item() == pytest.approx(
        (error / (predicted - noise).square().mean()).item(), rel=1e-5
    )


def test_the_bound_is_not_weighted() -> None:
    torch.manual_seed(0)
    x0, noise, t = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([1, 200, 500, 800, 950, 999])
    x_t, output = add_noise(x0, t, noise), torch.randn(6, 8)
    mse = (output[:, :4] - noise).square().mean(-1)
    plain, weighted = (diffusion_loss(output, x0, x_t, t, noise, limit) for limit in (1.0, 15.0))
    torch.testing.assert_close(weighted - plain, mse * (noise_weights(t, 15.0) - 1), atol=1e-4, rtol=1e-4)
