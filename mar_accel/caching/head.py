"""LazyMAR's head cache: most timesteps of a diffusion chain reuse the results of a few timesteps.

Source: the public implementation of LazyMAR (arXiv:2503.12450); see docs/caches.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar, cast

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.models.backbone import BackboneConfig
from mar_accel.models.diffusion_head import AdaLNMLP, ResBlock, modulate
from mar_accel.sampling.guidance import Guidance
from mar_accel.sampling.model_defaults import MODEL, FromModel, ModelDefaults
from mar_accel.sampling.solvers import Solver

# Number of rows (timesteps times tokens) whose modulations are computed together.
# Larger values gain nothing and cost memory.
FULL_ROWS = 512
GATE_ROWS = 4096


@dataclass(frozen=True)
class Modulation:
    """Modulations of the head at one timestep.

    Attributes:
        blocks: by block index, (shift, scale, gate), or (gate,) if the MLP output is reused.
        shift, scale: modulation of the final layer.
    """

    blocks: dict[int, tuple[Tensor, ...]]
    shift: Tensor
    scale: Tensor


class HeadCache(ModelDefaults):
    """Decides which timesteps of a chain are refreshed, and what the others reuse.

    Timestep indices t count down from T − 1 to 0. A refresh computes everything. Refreshes are:

    - timesteps with t = T − 1, t mod period = 0, or t < refresh_below · T;
    - the first guided timestep after a refresh without guidance.

    At all other timesteps, skipped blocks add their last contribution. Other blocks reuse their MLP output
    with a new gate; for t > compute_above · T they compute it. Guidance reuses ε_c − ε_u.

    Args:
        period: timesteps from one refresh to the next, at least 1; 7 as published. 1 disables the cache.
        skipped_blocks: indices (from 0) of residual blocks whose contribution is reused; 1 to 4 as
            published. Indices beyond the head's depth are ignored.
        compute_above: share of the chain, 0..1; 0.9 as published.
        period_for: chain length that ``period`` refers to, at least 1. A chain of T steps uses
            max(1, round(period · T / period_for)), which covers the same range of noise levels.
            None: ``period`` in every chain, as published.
        refresh_below: share of the chain, 0..1; 0 as published.
            "model": ``head_refresh_below`` of the model, or 0 if it has none.
            Errors from reuse in the last timesteps stay in the token as noise (docs/caches.md).

    Example:
        HeadCache(period=5, refresh_below=0.1)
    """

    model_defaults: ClassVar = {"refresh_below": ("head_refresh_below", 0.0)}

    def __init__(
        self,
        period: int = 7,
        skipped_blocks: Sequence[int] = (1, 2, 3, 4),
        compute_above: float = 0.9,
        period_for: int | None = 100,
        refresh_below: float | FromModel = MODEL,
    ):
        if period < 1:
            raise ConfigError(f"cache.head.period must be ≥ 1 (1 refreshes always), got {period}.")
        if period_for is not None and period_for < 1:
            raise ConfigError(
                f"cache.head.period_for must be ≥ 1 (a number of diffusion steps) or null, got {period_for}."
            )
        if any(block < 0 for block in skipped_blocks):
            raise ConfigError(
                f"cache.head.skipped_blocks must be block indices ≥ 0, got {list(skipped_blocks)}."
            )
        self.period = period
        self.period_for = period_for
        self.skipped_blocks = frozenset(skipped_blocks)
        self.compute_above = compute_above
        self.refresh_below = refresh_below
        self.check_settings()

    def check_settings(self) -> None:
        for key in ("compute_above", "refresh_below"):
            share = getattr(self, key)
            if share != MODEL and not (isinstance(share, (int, float)) and 0 <= share <= 1):
                raise ConfigError(f"cache.head.{key} must be between 0 and 1, got {share}.")

    def check(self, solver: Solver) -> None:
        """Reject solvers that do not visit the timesteps one by one."""
        if not solver.visits_every_timestep:
            raise ConfigError(
                f"cache.head needs a sampler.solver that visits every timestep in order, got "
                f"{type(solver).__name__}; choose another solver or set cache.head=null."
            )

    def computes(self, index: int, num_steps: int) -> bool:
        """Whether timestep ``index`` computes the blocks that are not skipped, if it is not a refresh."""
        return index > self.compute_above * num_steps

    def refreshes(self, index: int, num_steps: int) -> bool:
        """Whether timestep ``index`` of a chain with T timesteps is a refresh."""
        return (
            index == num_steps - 1
            or index % self.period_in(num_steps) == 0
            or index < self.setting("refresh_below") * num_steps
        )

    def reuses(self, num_steps: int) -> bool:
        """Whether a chain with T timesteps reuses anything."""
        return not all(self.refreshes(index, num_steps) for index in range(num_steps))

    def denoiser(
        self, net: AdaLNMLP, z: Tensor, time_embeddings: Tensor, guidance: Guidance, guided: Sequence[bool]
    ) -> HeadCacheDenoiser:
        """The noise prediction of one chain; arguments as in :class:`HeadCacheDenoiser`."""
        return HeadCacheDenoiser(self, net, z, time_embeddings, guidance, guided)

    def kept_per_token(self, config: BackboneConfig, guided: bool) -> int:
        """Elements that a chain keeps per token: contributions of all blocks, and the difference."""
        return config.head_depth * config.head_width + (config.token_dim if guided else 0)

    def period_in(self, num_steps: int) -> int:
        """Number of timesteps from one refresh to the next in a chain with T timesteps."""
        if self.period_for is None:
            return self.period
        return max(1, round(self.period * num_steps / self.period_for))


class HeadCacheDenoiser:
    """Guided noise prediction with a :class:`HeadCache`. Each chain has its own denoiser.

    Args:
        cache: settings of the head cache.
        net, z, time_embeddings, guidance, guided: see
            :class:`mar_accel.sampling.denoiser.GuidedDenoiser`.
    """

    def __init__(
        self,
        cache: HeadCache,
        net: AdaLNMLP,
        z: Tensor,
        time_embeddings: Tensor,
        guidance: Guidance,
        guided: Sequence[bool],
    ):
        self.cache, self.net = cache, net
        self.guidance, self.guided = guidance, guided
        self.blocks = cast("list[ResBlock]", list(net.res_blocks))
        self.time_embeddings = time_embeddings
        self.num_steps = time_embeddings.shape[0]
        self.embedding = net.cond_embed(z)
        # Only the conditional rows are computed between refreshes.
        self.conditional = self.embedding.chunk(2)[0] if any(guided) else self.embedding
        self.mlp_outputs: dict[int, Tensor] = {}
        self.deltas: dict[int, Tensor] = {}
        self.difference: Tensor | None = None
        self.refreshed = self._refreshed()
        self._refreshes: dict[int, Modulation] = {}
        self._between: dict[int, Modulation] = {}

    def _refreshed(self) -> frozenset[int]:
        """Indices of the refreshes. A guided timestep needs a guided refresh before it."""
        refreshed, difference_kept = [], False
        for index in reversed(range(self.num_steps)):
            if self.cache.refreshes(index, self.num_steps) or (self.guided[index] and not difference_kept):
                refreshed.append(index)
                difference_kept = self.guided[index]
        return frozenset(refreshed)

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        x = x.to(self.embedding.dtype)
        if index in self.refreshed:
            return self._refresh(x, index)
        if index not in self._between:
            self._between = self._next_between(index)
        modulation = self._between.pop(index)
        hidden = self._run_between(x, index, modulation)
        epsilon, v = self._output(hidden, modulation).chunk(2, dim=-1)
        if self.guided[index]:
            epsilon = self.guidance.extrapolate(epsilon, self._difference_at(index))
        return epsilon, v

    def _run_between(self, x: Tensor, index: int, modulation: Modulation) -> Tensor:
        """Output of the blocks [n, W] at a timestep that is no refresh."""
        if self.cache.computes(index, self.num_steps):
            return self._compute(x, modulation)
        return self._reuse(x, modulation)

    def _difference_at(self, index: int) -> Tensor:
        """ε_c − ε_u [n, C] for a timestep that is no refresh."""
        assert self.difference is not None
        return self.difference

    def _keep_difference(self, difference: Tensor | None, index: int) -> None:
        """Keep ε_c − ε_u [n, C] of a refresh; None if it is not guided."""
        self.difference = difference

    def tensors(self) -> list[Tensor]:
        """All tensors cached between timesteps, except modulations."""
        difference = [] if self.difference is None else [self.difference]
        return [*self.mlp_outputs.values(), *self.deltas.values(), *difference]

    def _refresh(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Compute the branches of the timestep and keep the tensors that later timesteps reuse."""
        count, guided = x.shape[0], self.guided[index]
        if index not in self._refreshes:
            self._refreshes = self._next_refreshes(index)
        modulation = self._refreshes.pop(index)
        hidden = self.net.input_proj(torch.cat([x, x]) if guided else x)
        out = self._output(self._run_refresh(hidden, index, modulation, count), modulation)
        if not guided:
            self._keep_difference(None, index)
            epsilon, v = out.chunk(2, dim=-1)
            return epsilon, v
        conditional, unconditional = out.chunk(2)
        epsilon, v = conditional.chunk(2, dim=-1)
        epsilon_u = unconditional[:, : epsilon.shape[-1]]
        self._keep_difference(epsilon - epsilon_u, index)
        return self.guidance.combine(epsilon, epsilon_u), v

    def _run_refresh(self, hidden: Tensor, index: int, modulation: Modulation, count: int) -> Tensor:
        """Output of the blocks [rows, W] at a refresh; keeps what they contribute to the first n rows."""
        for number, block in enumerate(self.blocks):
            shift, scale, gate = modulation.blocks[number]
            output = block.mlp_output(hidden, shift, scale)
            hidden = torch.addcmul(hidden, gate, output)
            if number in self.cache.skipped_blocks:
                self.deltas[number] = gate[:count] * output[:count]
            else:
                # Copy: a view would keep the memory of the unconditional half.
                self.mlp_outputs[number] = output[:count].clone() if len(output) > count else output
        return hidden

    def _compute(self, x: Tensor, modulation: Modulation) -> Tensor:
        """The noisiest timesteps: blocks that are not skipped compute their MLP."""
        hidden = self.net.input_proj(x)
        for number, block in enumerate(self.blocks):
            if number in self.deltas:
                hidden = hidden + self.deltas[number]
            else:
                shift, scale, gate = modulation.blocks[number]
                hidden = torch.addcmul(hidden, gate, block.mlp_output(hidden, shift, scale))
        return hidden

    def _reuse(self, x: Tensor, modulation: Modulation) -> Tensor:
        """No block computes its MLP: all contributions are reused, some with new gates."""
        hidden = self.net.input_proj(x)
        for delta in self.deltas.values():
            hidden = hidden + delta
        for number, (gate,) in modulation.blocks.items():
            hidden = torch.addcmul(hidden, gate, self.mlp_outputs[number])
        return hidden

    def _output(self, hidden: Tensor, modulation: Modulation) -> Tensor:
        """ε and v of all rows [rows, 2C], float32 under every precision, as guidance needs it."""
        final = self.net.final_layer
        modulated = modulate(final.norm_final(hidden), modulation.shift, modulation.scale)
        return final.linear(modulated).float()

    # Modulations depend on the timestep and z, but not on x. With few tokens, reading the weights costs most.
    # Several timesteps are therefore computed together, so that the weights are read once.

    def _next_refreshes(self, index: int) -> dict[int, Modulation]:
        """Modulations of the refresh ``index`` and of the next similar refreshes, up to FULL_ROWS rows."""
        guided = self.guided[index]
        embedding = self.embedding if guided else self.conditional
        later = (i for i in range(index, -1, -1) if i in self.refreshed)
        indices = list(takewhile(lambda i: self.guided[i] == guided, later))
        indices = indices[: max(1, FULL_ROWS // embedding.shape[0])]
        return self._modulations(indices, embedding, range(len(self.blocks)), gates_alone=False)

    def _next_between(self, index: int) -> dict[int, Modulation]:
        """Modulations of ``index`` and of the next similar timesteps, up to GATE_ROWS rows."""
        computes = self.cache.computes(index, self.num_steps)
        indices = [
            i
            for i in range(index, -1, -1)
            if i not in self.refreshed and self.cache.computes(i, self.num_steps) == computes
        ]
        indices = indices[: max(1, GATE_ROWS // self.conditional.shape[0])]
        return self._modulations(indices, self.conditional, self.mlp_outputs, gates_alone=not computes)

    def _modulations(
        self, indices: Sequence[int], embedding: Tensor, numbers: Iterable[int], gates_alone: bool
    ) -> dict[int, Modulation]:
        """Modulations of several timesteps for the blocks ``numbers``, computed together."""
        times = torch.stack([self.time_embeddings[i] for i in indices]).unsqueeze(1)
        activated = self.net.activate(times, embedding)
        blocks = {
            number: (self.blocks[number].gate(activated),)
            if gates_alone
            else self.blocks[number].modulation(activated)
            for number in numbers
        }
        shifts, scales = self.net.final_layer.adaLN_modulation[1](activated).chunk(2, dim=-1)
        return {
            i: Modulation(
                {number: tuple(part[row] for part in parts) for number, parts in blocks.items()},
                shifts[row],
                scales[row],
            )
            for row, i in enumerate(indices)
        }
