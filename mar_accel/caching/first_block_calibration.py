"""Turns a threshold on the change of the head's first block into a list of refreshes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.sampling.denoiser import Denoiser, GuidedDenoiser
from mar_accel.sampling.observer import Chain, Observer
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.state import DecodeState


class FirstBlockMovement(Observer):
    """Mean relative change of the first block's residual between any two timesteps of a chain.

    Runs every chain again, without a cache. The change from timestep s to t is ‖r_t − r_s‖₁/‖r_s‖₁ of a
    token's residual r = gate · MLP output, averaged over tokens.

    Example:
        >>> movement = FirstBlockMovement()
        >>> _ = session.sample([0], torch.tensor([3]), movement)
        >>> refresh_timesteps(movement.changes(), 0.1)
    """

    def __init__(self) -> None:
        self._totals: dict[int, Tensor] = {}
        self._tokens: dict[int, int] = {}

    def chain_end(self, state: DecodeState, step: ARStep, chain: Chain, tokens: Tensor) -> None:
        count = len(tokens)
        plain = GuidedDenoiser(chain.net, chain.z, chain.time_embeddings, step.guidance, chain.guided)
        recorder = _Recorder(plain, chain.net, chain.net.cond_embed(chain.z[:count]), chain.time_embeddings)
        chain.run(recorder)
        residuals = torch.stack([recorder.residuals[t] for t in range(chain.schedule.num_steps)])
        sizes = residuals.abs().sum(-1).clamp(min=1e-12)
        changes = [((residuals - r).abs().sum(-1) / sizes[s]).sum(-1) for s, r in enumerate(residuals)]
        length = len(residuals)
        self._totals[length] = self._totals.get(length, 0) + torch.stack(changes).double().cpu()
        self._tokens[length] = self._tokens.get(length, 0) + count

    def changes(self) -> Tensor:
        """Mean changes [T, T] from timestep s (first index) to t, for the longest chains."""
        longest = max(self._totals)
        return self._totals[longest] / self._tokens[longest]


class _Recorder:
    """A noise prediction that keeps the first block's residuals [n, W] by timestep index."""

    def __init__(self, denoise: Denoiser, net: AdaLNMLP, embedding: Tensor, time_embeddings: Tensor):
        self.denoise, self.net = denoise, net
        self.embedding, self.time_embeddings = embedding, time_embeddings
        self.residuals: dict[int, Tensor] = {}

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        block = self.net.layers[0]
        activated = self.net.activate(self.time_embeddings[index], self.embedding)
        hidden = self.net.input_proj(x.to(activated.dtype))
        self.residuals[index] = (block(hidden, activated) - hidden).float()
        return self.denoise(x, index)


def refresh_timesteps(changes: Tensor, threshold: float) -> list[int]:
    """Timesteps at which the first block has changed by the threshold since the last refresh, ascending.

    Args:
        changes: mean changes [T, T] of a :class:`FirstBlockMovement`.
        threshold: relative change at which a timestep is a refresh, above 0.

    Example:
        >>> refresh_timesteps(torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [0.5, 0.2, 0.0]]), 0.4)
        [0, 2]
    """
    rows: Sequence[Sequence[float]] = changes.tolist()
    last = len(rows) - 1
    refreshes = [last]
    for timestep in reversed(range(last)):
        if rows[last][timestep] >= threshold:
            refreshes.append(timestep)
            last = timestep
    return sorted(refreshes)
