"""What a training may begin with, and how it weights noisy timesteps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mar_accel.errors import ConfigError
from mar_accel.models.diffusion import add_noise, diffusion_loss, noise_weights, training_coefficients
from mar_accel.models.lightgen import LightGen, LightGenConfig
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.training.local_start import OFFSETS, start_locally

SIDE, DIM, HEADS = 16, 128, 4


def _small(family: str) -> Any:
    sizes: dict[str, Any] = {"grid": (SIDE, SIDE), "embed_dim": DIM, "num_heads": HEADS, "head_depth": 1}
    sizes |= {"encoder_depth": 1, "decoder_depth": 2, "head_width": 32}
    torch.manual_seed(0)
    if family == "mar":
        return MAR(MARConfig(**sizes, num_classes=3, buffer_size=4))
    return LightGen(LightGenConfig(**sizes, cross_depth=1, text_depth=1))


@pytest.mark.parametrize("family", ["mar", "lightgen"])
@pytest.mark.parametrize("block", [0, 1])
def test_heads_of_the_decoder_begin_with_attention_to_one_neighbour(block: int, family: str) -> None:
    model = _small(family)
    buffer = model.config.buffer_size
    tables = (model.encoder_pos_embed_learned, model.decoder_pos_embed_learned)
    before = [table[0, :buffer].clone() for table in tables]
    start_locally(model)
    assert all(torch.equal(table[0, :buffer], kept) for table, kept in zip(tables, before, strict=True))
    begun = model.decoder_blocks[block]
    q, k, _ = begun.attn.project_qkv(begun.norm1(tables[1][:, buffer:]))
    attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)[0].unflatten(-1, (SIDE, SIDE))
    place = (5, 9)
    seen = attention[:, place[0] * SIDE + place[1]]
    at_neighbour = [
        seen[head, place[0] + rows, place[1] + columns].item() for head, (rows, columns) in enumerate(OFFSETS)
    ]
    # Half of the heads of every second block see the whole grid.
    local = HEADS if block == 0 else HEADS // 2
    assert min(at_neighbour[:local]) > 0.8 and max(at_neighbour[local:], default=0) < 0.05


def test_known_tokens_enter_the_decoder_where_they_are() -> None:
    """Their content fills the channels that the positions leave free."""
    model = _small("lightgen")
    start_locally(model)
    tokens, places = torch.randn(1, 9, model.config.token_dim), torch.arange(9).unsqueeze(0)
    inputs = model.decoder_inputs(model.embed_tokens(tokens, places), places)[0, :9]
    expected = model.decoder_pos_embed_learned[0, :9]
    half = DIM // 2
    assert torch.cosine_similarity(inputs[:, :half], expected[:, :half]).min() > 0.95
    assert 0.3 < inputs[:, half:].std() < 3


def test_a_width_without_room_for_the_positions_is_refused() -> None:
    model = MAR(MARConfig(grid=(4, 4), embed_dim=48, num_heads=3, head_depth=1, head_width=32, num_classes=3))
    with pytest.raises(ConfigError, match=r"local_start needs an even .*num_heads.* got 3 and 48\.$"):
        start_locally(model)


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
