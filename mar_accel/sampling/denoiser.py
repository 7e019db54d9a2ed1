"""The guided noise prediction that head solvers call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.sampling.guidance import Guidance


class Denoiser(Protocol):
    """Noise prediction along one chain of n tokens."""

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Predict the noise at one timestep of the chain.

        Args:
            x: noisy tokens [n, C], float32.
            index: index of the timestep in the chain, from T-1 down to 0. Timesteps may be fractions.

        Returns:
            The guided ε and the variance interpolation v, both [n, C], float32.
        """
        ...


# Number of rows (tokens times timesteps) whose modulations are computed together.
MODULATION_ROWS = 1024


class GuidedDenoiser:
    """Noise prediction of the head, with classifier-free guidance.

    Both branches get the same x. The variance v comes from the conditional branch.

    Args:
        net: network of the head.
        z: conditioning vectors [n, D]. If any timestep is guided: [2n, D], conditional rows first.
        time_embeddings: embeddings of the chain's timesteps [T, W], in ascending order.
        guidance: combines the branches.
        guided: whether each of the T timesteps is guided. The others run the conditional branch only.
    """

    def __init__(
        self,
        net: AdaLNMLP,
        z: Tensor,
        time_embeddings: Tensor,
        guidance: Guidance,
        guided: Sequence[bool],
    ):
        self.net = net
        self.embedding = net.cond_embed(z)
        self.conditional = self.embedding.chunk(2)[0] if any(guided) else self.embedding
        self.time_embeddings = time_embeddings
        self.guidance = guidance
        self.guided = guided
        # Modulations per layer for the timesteps from _first on. These are all guided or all unguided.
        self._modulations: list[tuple[tuple[Tensor, ...], ...]] = []
        self._first = 0
        self._memory: list[Tensor] | None = None

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        x = x.to(self.embedding.dtype)
        if not self.guided[index]:
            epsilon, v = self._evaluate(x, index, self.conditional).float().chunk(2, dim=-1)
            return epsilon, v
        # float32 under every precision: guidance and the chain add up small differences.
        both = self._evaluate(torch.cat([x, x]), index, self.embedding).float()
        conditional, unconditional = both.chunk(2)
        epsilon, v = conditional.chunk(2, dim=-1)
        return self.guidance.combine(epsilon, unconditional[:, : epsilon.shape[-1]]), v

    def _evaluate(self, x: Tensor, index: int, embedding: Tensor) -> Tensor:
        """Output of the head for all rows, [rows, 2C].

        Three fifths of the head's work depend on timestep and z, but not on x. With few rows, this work
        mostly reads weights, so several timesteps are computed together. With many rows, that gains
        nothing and costs memory.
        """
        together = MODULATION_ROWS // x.shape[0]
        if together < 2:
            return self.net.evaluate(x, self.net.activate(self.time_embeddings[index], embedding))
        if not 0 <= index - self._first < len(self._modulations):
            self._modulations = []  # freed before the next ones take their memory
            self._first = self._start_of_run(index, together)
            times = self.time_embeddings[self._first : index + 1].unsqueeze(1)
            layers = self._modulate(self.net.activate(times, embedding))
            by_layer = [zip(*(part.unbind() for part in layer), strict=True) for layer in layers]
            self._modulations = list(zip(*by_layer, strict=True))
        return self.net.evaluate_modulated(x, self._modulations[index - self._first])

    def _start_of_run(self, index: int, length: int) -> int:
        """First timestep of a run that ends at ``index``.

        A run has at most ``length`` timesteps, which are all guided or all unguided.
        """
        first = index
        while first > max(0, index + 1 - length) and self.guided[first - 1] == self.guided[index]:
            first -= 1
        return first

    def _modulate(self, activated: Tensor) -> list[tuple[Tensor, ...]]:
        """Modulations of an activated condition [steps, rows, W].

        On a CPU, fresh memory of this size costs page faults, so the previous memory is reused. GPUs have
        a caching allocator. Under autocast the result has another dtype, so nothing is reused.
        """
        weight = self.net.input_proj.weight
        if weight.device.type != "cpu" or weight.dtype != activated.dtype:
            return self.net.modulations(activated)
        steps, rows, _ = activated.shape
        memory = self._memory
        if memory is None or memory[0].shape[0] < steps or memory[0].shape[1] != rows:
            self._memory = memory = self.net.modulation_memory(activated)
        return self.net.modulations(activated, [part[:steps] for part in memory])


def embed_timesteps(net: AdaLNMLP, timesteps: Sequence[float], device: torch.device) -> Tensor:
    """Embeddings [T, W] of timesteps on the scale of the training (0..999), integers or fractions."""
    return net.time_embed(torch.tensor(timesteps, dtype=torch.float32, device=device))
