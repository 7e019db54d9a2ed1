"""The guided noise prediction that a head solver asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mar_accel.models.diffusion_head import AdaLNMLP


class Denoiser(Protocol):
    """Noise prediction along one chain of n tokens."""

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Predict at the chain's timestep ``index``, which counts down from T-1 to 0.

        Args:
            x: noisy tokens [n, C], float32.

        Returns:
            The guided ε and the variance interpolation v, both [n, C], float32.
        """
        ...


# Rows (tokens times timesteps) whose modulations are computed together.
MODULATION_ROWS = 1024


class GuidedDenoiser:
    """ε = ε_u + w·(ε_c − ε_u); both branches see the same x, v is the conditional branch's.

    Args:
        net: the head's network.
        z: conditioning vectors: [n, D], or [2n, D] with the unconditional branch's behind.
        time_embeddings: embeddings of the chain's timesteps [T, W], in growing order.
        guidance_scale: w; without effect where z has one branch.
    """

    def __init__(
        self, net: AdaLNMLP, z: Tensor, time_embeddings: Tensor, guidance_scale: float, guided: bool
    ):
        self.net = net
        self.cond_embedding = net.cond_embed(z)
        self.time_embeddings = time_embeddings
        self.guidance_scale = guidance_scale
        self.guided = guided
        # Modulations by layer, of the timesteps from _first on.
        self._modulations: list[tuple[tuple[Tensor, ...], ...]] = []
        self._first = 0
        self._memory: list[Tensor] | None = None

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        x = x.to(self.cond_embedding.dtype)
        out = self._evaluate(torch.cat([x, x]) if self.guided else x, index)
        if not self.guided:
            epsilon, v = out.chunk(2, dim=-1)
            return epsilon, v
        conditional, unconditional = out.chunk(2, dim=0)
        epsilon, v = conditional.chunk(2, dim=-1)
        epsilon_u = unconditional[:, : epsilon.shape[-1]]
        return torch.lerp(epsilon_u, epsilon, self.guidance_scale), v

    def _evaluate(self, x: Tensor, index: int) -> Tensor:
        """The head's output for all rows, [rows, 2C].

        Three fifths of the head's work depend on timestep and z but not on x. With few rows most of it would
        go into reading weights, so it is done for several timesteps at a time. With many rows that gains
        nothing and costs memory.
        """
        together = MODULATION_ROWS // x.shape[0]
        if together < 2:
            return self.net.evaluate(x, self.net.activate(self.time_embeddings[index], self.cond_embedding))
        if not 0 <= index - self._first < len(self._modulations):
            self._modulations = []  # freed before the next ones take their memory
            self._first = max(0, index + 1 - together)
            times = self.time_embeddings[self._first : index + 1].unsqueeze(1)
            layers = self._modulate(self.net.activate(times, self.cond_embedding))
            by_layer = [zip(*(part.unbind() for part in layer), strict=True) for layer in layers]
            self._modulations = list(zip(*by_layer, strict=True))
        return self.net.evaluate_modulated(x, self._modulations[index - self._first])

    def _modulate(self, activated: Tensor) -> list[tuple[Tensor, ...]]:
        """Modulations of an activated condition [steps, rows, W].

        On a CPU, new memory for so large a result costs page faults at its first touch, so the
        memory of the last one is used again. GPUs have an allocator for that, and autocast its own types.
        """
        weight = self.net.input_proj.weight
        if weight.device.type != "cpu" or weight.dtype != activated.dtype:
            return self.net.modulations(activated)
        steps = activated.shape[0]
        if self._memory is None or self._memory[0].shape[0] < steps:
            self._memory = self.net.modulation_memory(activated)
        return self.net.modulations(activated, [part[:steps] for part in self._memory])


def embed_timesteps(net: AdaLNMLP, timesteps: Sequence[int], device: torch.device) -> Tensor:
    """Embeddings [T, W] of original timesteps in 0..999."""
    return net.time_embed(torch.tensor(timesteps, device=device))
