"""LazyMAR's head cache: most timesteps of a diffusion chain reuse what a few of them computed.

Source: LazyMAR (arXiv:2503.12450) as its public implementation does it; see docs/caches.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar, cast

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.models.diffusion_head import AdaLNMLP, ResBlock, modulate
from mar_accel.sampling.guidance import Guidance
from mar_accel.sampling.model_defaults import MODEL, FromModel, ModelDefaults
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.solvers import Solver

# Rows (timesteps times tokens) whose modulations are computed at once: more gain nothing and cost memory.
FULL_ROWS = 512
GATE_ROWS = 4096


@dataclass(frozen=True)
class Modulation:
    """What the blocks that are computed or reused read at one timestep.

    Attributes:
        blocks: by number of the block (shift, scale, gate), or (gate,) where its MLP output is reused.
        shift, scale: of the final layer.
    """

    blocks: dict[int, tuple[Tensor, ...]]
    shift: Tensor
    scale: Tensor


class HeadCache(ModelDefaults):
    """Which timesteps of a chain are computed, and which blocks are skipped at the others.

    Timestep indices t count down from T − 1 to 0. A timestep with t = T − 1, t mod period = 0 or
    t < refresh_below · T is refreshed, and so is the first guided one after a refresh without guidance.
    At the others the skipped blocks add what they last added, the
    others reuse their MLP's output under a fresh gate, or compute it where t > compute_above · T, and
    guidance reuses ε_c − ε_u.

    Args:
        period: at least 1; 7 as published. 1 turns the cache off.
        period_for: T of the chains that ``period`` was made for, at least 1; in a chain of T steps it becomes
            max(1, round(period · T / period_for)), the same stretch of noise levels. None: ``period`` in
            every chain, as published.
        skipped_blocks: residual blocks whose contribution is kept whole, 0-based; 1 to 4 as published.
            Blocks that a head does not have are ignored.
        compute_above: share of the chain, 0..1; 0.9 as published.
        refresh_below: share of the chain, 0..1; 0 as published. "model": ``head_refresh_below`` of the model,
            else 0. What is reused in the last timesteps stays in the token as noise: no later timestep
            takes it out (docs/caches.md).
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
            raise ConfigError(f"cache.head.period={period} is too small; give 1 (always refresh) or more.")
        if period_for is not None and period_for < 1:
            raise ConfigError(
                f"cache.head.period_for={period_for} is no length of a chain; give 1 or more, or null."
            )
        if any(block < 0 for block in skipped_blocks):
            raise ConfigError(
                f"cache.head.skipped_blocks={list(skipped_blocks)} has a negative block; give 0 or more."
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
                raise ConfigError(f"cache.head.{key}={share} must be a share of the chain; choose 0 to 1.")

    def check(self, plan: Plan, solver: Solver) -> None:
        """Refuse solvers that do not walk through the timesteps one by one."""
        if not solver.visits_every_timestep:
            raise ConfigError(
                f"cache.head reuses what the head computed at neighbouring timesteps, but sampler.solver "
                f"({type(solver).__name__}) does not visit them in turn; set cache.head=null or choose "
                "another solver."
            )

    def computes(self, index: int, num_steps: int) -> bool:
        """Whether timestep ``index``, if it is no refresh, computes the blocks that are not skipped."""
        return index > self.compute_above * num_steps

    def refreshes(self, index: int, num_steps: int) -> bool:
        """Whether timestep ``index`` of a chain of T is computed in full."""
        return (
            index == num_steps - 1
            or index % self.period_in(num_steps) == 0
            or index < self.setting("refresh_below") * num_steps
        )

    def period_in(self, num_steps: int) -> int:
        """Timesteps from a refresh to the next in a chain of T."""
        if self.period_for is None:
            return self.period
        return max(1, round(self.period * num_steps / self.period_for))


class HeadCacheDenoiser:
    """The guided noise prediction of one chain under a :class:`HeadCache`; a chain has its own.

    Args:
        cache: which timesteps are computed.
        net, z, time_embeddings, guidance, guided: as :class:`mar_accel.sampling.denoiser.GuidedDenoiser`.
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
        # Conditional rows, the only ones that are computed between refreshes.
        self.conditional = self.embedding.chunk(2)[0] if any(guided) else self.embedding
        self.mlp_outputs: dict[int, Tensor] = {}
        self.deltas: dict[int, Tensor] = {}
        self.difference: Tensor | None = None
        self.refreshed = self._refreshed()
        self._refreshes: dict[int, Modulation] = {}
        self._between: dict[int, Modulation] = {}

    def _refreshed(self) -> frozenset[int]:
        """Timesteps that are refreshed; a guided one needs a guided refresh before it."""
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
        hidden = (
            self._compute(x, modulation)
            if self.cache.computes(index, self.num_steps)
            else self._reuse(x, modulation)
        )
        epsilon, v = self._output(hidden, modulation).chunk(2, dim=-1)
        if self.guided[index]:
            assert self.difference is not None
            epsilon = self.guidance.extrapolate(epsilon, self.difference)
        return epsilon, v

    def tensors(self) -> list[Tensor]:
        """Everything that is kept between timesteps, modulations aside."""
        difference = [] if self.difference is None else [self.difference]
        return [*self.mlp_outputs.values(), *self.deltas.values(), *difference]

    def _refresh(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Compute the branches that the timestep needs and keep what the following timesteps reuse."""
        count, guided = x.shape[0], self.guided[index]
        if index not in self._refreshes:
            self._refreshes = self._next_refreshes(index)
        modulation = self._refreshes.pop(index)
        hidden = self.net.input_proj(torch.cat([x, x]) if guided else x)
        for number, block in enumerate(self.blocks):
            shift, scale, gate = modulation.blocks[number]
            output = block.mlp_output(hidden, shift, scale)
            hidden = torch.addcmul(hidden, gate, output)
            if number in self.cache.skipped_blocks:
                self.deltas[number] = gate[:count] * output[:count]
            else:
                # A copy: a view would keep the unconditional half alive.
                self.mlp_outputs[number] = output[:count].clone() if guided else output
        out = self._output(hidden, modulation)
        if not guided:
            self.difference = None
            epsilon, v = out.chunk(2, dim=-1)
            return epsilon, v
        conditional, unconditional = out.chunk(2)
        epsilon, v = conditional.chunk(2, dim=-1)
        epsilon_u = unconditional[:, : epsilon.shape[-1]]
        self.difference = epsilon - epsilon_u
        return self.guidance.combine(epsilon, epsilon_u), v

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
        """No block is computed: every contribution is kept, and only gates are fresh."""
        hidden = self.net.input_proj(x)
        for delta in self.deltas.values():
            hidden = hidden + delta
        for number, (gate,) in modulation.blocks.items():
            hidden = torch.addcmul(hidden, gate, self.mlp_outputs[number])
        return hidden

    def _output(self, hidden: Tensor, modulation: Modulation) -> Tensor:
        final = self.net.final_layer
        return final.linear(modulate(final.norm_final(hidden), modulation.shift, modulation.scale))

    # Modulations depend on the timestep and z but not on x. Those of several timesteps are computed together
    # where there are few tokens: the weights, which cost most then, are read once for all of them.

    def _next_refreshes(self, index: int) -> dict[int, Modulation]:
        """Modulations of the refresh ``index`` and of those alike after it, until their rows are many."""
        guided = self.guided[index]
        embedding = self.embedding if guided else self.conditional
        later = (i for i in range(index, -1, -1) if i in self.refreshed)
        indices = list(takewhile(lambda i: self.guided[i] == guided, later))
        indices = indices[: max(1, FULL_ROWS // embedding.shape[0])]
        return self._modulations(indices, embedding, range(len(self.blocks)), gates_alone=False)

    def _next_between(self, index: int) -> dict[int, Modulation]:
        """Modulations of ``index`` and of those alike after it, until their rows are many."""
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
        """Modulations of some timesteps for the blocks ``numbers``, all timesteps at once."""
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
