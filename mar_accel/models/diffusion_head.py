"""The diffusion head ("DiffLoss"): an MLP with adaLN that denoises each token separately.

Source: MAR (arXiv:2406.11838, section 3.2). Parameter names match the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar_accel.models.diffusion import NUM_TRAIN_TIMESTEPS, add_noise, diffusion_loss

TIMESTEP_FREQUENCIES = 128


class TimestepEmbedder(nn.Module):
    """Timestep embedding: sinusoids (128 cosines, then 128 sines), Linear, SiLU, Linear."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * TIMESTEP_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        """Embed original timesteps [n] in 0..999 as [n, width]."""
        exponent = torch.arange(TIMESTEP_FREQUENCIES, dtype=torch.float32, device=t.device)
        frequencies = torch.exp(-math.log(10_000) * exponent / TIMESTEP_FREQUENCIES)
        angles = t.float().unsqueeze(-1) * frequencies
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(sinusoid.to(linear_of(self.mlp, 0).weight.dtype))


class ResBlock(nn.Module):
    """Residual block: x + gate · MLP(LN(x) · (1 + scale) + shift).

    The condition gives shift, scale and gate.
    """

    def __init__(self, width: int):
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def modulation(self, activated: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Shift, scale and gate [..., W] from the condition SiLU(y) [..., W], in ``out`` [..., 3W]."""
        shift, scale, gate = linear_into(self.adaLN_modulation, activated, out).chunk(3, dim=-1)
        return shift, scale, gate

    def modulated(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """Output of the block [n, W] for given shift, scale and gate."""
        return torch.addcmul(x, gate, self.mlp_output(x, shift, scale))

    def mlp_output(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """MLP output [n, W] before the gate. LazyMAR's head cache reuses it."""
        return self.mlp(modulate(self.in_ln(x), shift, scale))

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        return self.modulated(x, *self.modulation(activated))

    def gate(self, activated: Tensor) -> Tensor:
        """Only the gate [n, W], without shift and scale."""
        linear = linear_of(self.adaLN_modulation, 1)
        width = linear.in_features
        return F.linear(activated, linear.weight[2 * width :], linear.bias[2 * width :])


class FinalLayer(nn.Module):
    """adaLN and Linear to 2C channels. The LayerNorm has no affine parameters."""

    def __init__(self, width: int, out_channels: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def modulation(self, activated: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Shift and scale [..., W] from the condition SiLU(y) [..., W], in ``out`` [..., 2W]."""
        shift, scale = linear_into(self.adaLN_modulation, activated, out).chunk(2, dim=-1)
        return shift, scale

    def modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Output of the layer [n, 2C] for given shift and scale."""
        return self.linear(modulate(self.norm_final(x), shift, scale))

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        return self.modulated(x, *self.modulation(activated))


def linear_of(layers: nn.Sequential, index: int) -> nn.Linear:
    """The linear layer at an index of a Sequential."""
    return cast("nn.Linear", layers[index])


def linear_into(adaln: nn.Sequential, activated: Tensor, out: Tensor | None) -> Tensor:
    """Apply the linear layer of an adaLN: [..., W] to [..., F].

    The result is written to the contiguous tensor ``out`` if given.
    """
    if out is None:
        return adaln[1](activated)
    linear = linear_of(adaln, 1)
    torch.addmm(linear.bias, activated.flatten(0, -2), linear.weight.t(), out=out.flatten(0, -2))
    return out


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x · (1 + scale) + shift."""
    return torch.addcmul(x + shift, x, scale)


class AdaLNMLP(nn.Module):
    """Network of the head: predicts ε and v from noisy token, timestep and conditioning vector.

    Args:
        token_dim: channels C of a token.
        z_dim: width D of the conditioning vectors.
        width: width W of the head.
        depth: number of residual blocks.
    """

    def __init__(self, token_dim: int, z_dim: int, width: int, depth: int):
        super().__init__()
        self.token_dim = token_dim
        self.input_proj = nn.Linear(token_dim, width)
        self.time_embed = TimestepEmbedder(width)
        self.cond_embed = nn.Linear(z_dim, width)
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * token_dim)
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """Published initialisation: residual branches and output start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for index in (0, 2):
            nn.init.normal_(linear_of(self.time_embed.mlp, index).weight, std=0.02)
        for layer in self.layers:
            nn.init.zeros_(linear_of(layer.adaLN_modulation, 1).weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    @property
    def layers(self) -> list[ResBlock | FinalLayer]:
        """The modulated layers: residual blocks, then the final layer."""
        return [*cast("list[ResBlock]", list(self.res_blocks)), self.final_layer]

    def activate(self, time_embedding: Tensor, cond_embedding: Tensor) -> Tensor:
        """Condition of all adaLN layers, SiLU(t + c) [n, W]. It is computed once per evaluation."""
        return F.silu(time_embedding + cond_embedding)

    def evaluate(self, x: Tensor, activated: Tensor) -> Tensor:
        """Predict ε and v [n, 2C] from noisy tokens [n, C] and the activated condition [n, W]."""
        x = self.input_proj(x)
        for block in self.res_blocks:
            x = block(x, activated)
        return self.final_layer(x, activated)

    def modulations(
        self, activated: Tensor, memory: Sequence[Tensor] | None = None
    ) -> list[tuple[Tensor, ...]]:
        """Modulations of all ``layers`` for the activated condition [..., W].

        They depend only on timestep and conditioning vector, so they can be computed before the tokens.

        Args:
            activated: output of ``activate``.
            memory: output of ``modulation_memory`` for the same shape; overwritten. None: new memory.
        """
        outs = [None] * len(self.layers) if memory is None else memory
        return [layer.modulation(activated, out) for layer, out in zip(self.layers, outs, strict=True)]

    def modulation_memory(self, like: Tensor) -> list[Tensor]:
        """Memory for the modulations of an activated condition with the shape and dtype of ``like``."""
        widths = [linear_of(layer.adaLN_modulation, 1).out_features for layer in self.layers]
        return [like.new_empty(*like.shape[:-1], width) for width in widths]

    def evaluate_modulated(self, x: Tensor, modulations: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Like ``evaluate``, with modulations [n, W] from ``modulations``; [n, C] to [n, 2C]."""
        x = self.input_proj(x)
        for layer, modulation in zip(self.layers, modulations, strict=True):
            x = layer.modulated(x, *modulation)
        return x

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Predict ε and v [n, 2C] from noisy tokens [n, C], timesteps [n] and z [n, D]."""
        return self.evaluate(x, self.activate(self._embed_times(t), self.cond_embed(z)))

    def _embed_times(self, t: Tensor) -> Tensor:
        """Embeddings [n, W] of timesteps [n]; for many rows, each timestep is embedded once."""
        if len(t) <= NUM_TRAIN_TIMESTEPS:
            return self.time_embed(t)
        return F.embedding(
            t, self.time_embed(torch.arange(NUM_TRAIN_TIMESTEPS, dtype=torch.long, device=t.device))
        )


class DiffusionHead(nn.Module):
    """The head with its training loss. For sampling, see ``mar_accel.sampling.solvers``."""

    def __init__(self, token_dim: int, z_dim: int, width: int, depth: int):
        super().__init__()
        self.net = AdaLNMLP(token_dim, z_dim, width, depth)

    def loss(
        self,
        x0: Tensor,
        z: Tensor,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
        draws: int = 1,
        max_weight: float = 1.0,
    ) -> Tensor:
        """Mean diffusion loss of clean tokens.

        Args:
            x0: clean tokens [n, C].
            z: conditioning vectors of the tokens [n, D].
            timesteps: int64 [draws·n] in 0..999. None: drawn uniformly, one from each of ``draws`` equal
                parts of the range.
            noise: standard normal [draws·n, C]. None: drawn.
            draws: number of noised versions of each token, at least 1. MAR trains with 4.
            max_weight: largest weight of noisy timesteps, at least 1. MAR trains with 1.

        Returns:
            Scalar: MSE plus the variational bound, averaged over tokens and draws.
        """
        if draws > 1:
            x0, z = x0.repeat(draws, 1), z.repeat(draws, 1)
        if timesteps is None:
            timesteps = _draw_timesteps(len(x0) // draws, draws, x0.device)
        if noise is None:
            noise = torch.randn_like(x0)
        x_t = add_noise(x0, timesteps, noise)
        # The constants of the process are float32, so x_t is too, whatever dtype the weights have.
        output = self.net(x_t.to(self.net.input_proj.weight.dtype), timesteps, z)
        return diffusion_loss(output, x0, x_t, timesteps, noise, max_weight).mean()


def _draw_timesteps(count: int, draws: int, device: torch.device) -> Tensor:
    """Draw timesteps [draws·count], stratified: each token gets one from each equal part of 0..999."""
    if draws == 1:
        return torch.randint(NUM_TRAIN_TIMESTEPS, (count,), dtype=torch.long, device=device)
    parts = torch.arange(draws, dtype=torch.long, device=device).repeat_interleave(count)
    uniform = torch.rand(draws * count, dtype=torch.float64, device=device)
    return ((parts + uniform) * (NUM_TRAIN_TIMESTEPS / draws)).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)
