"""LazyMAR's head cache: most timesteps of a diffusion chain reuse what a few of them computed.

Source: LazyMAR (arXiv:2503.12450) as its public implementation does it; see docs/caches.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.models.diffusion_head import AdaLNMLP, ResBlock, modulate
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.solvers import Solver

# Rows (timesteps times tokens) whose modulations are computed at once: more gain nothing and cost memory.
FULL_ROWS = 512
PARTIAL_ROWS = 4096

# Shift, scale and gate of every block; shift and scale of the final layer.
_FullModulation = tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor, Tensor]
# Gates of the blocks that are not skipped; shift and scale of the final layer.
_PartialModulation = tuple[dict[int, Tensor], Tensor, Tensor]


class HeadCache:
    """Which timesteps of a chain are computed, and which blocks are skipped at the others.

    Timestep indices t count down from T − 1 to 0. A timestep with t = T − 1 or t mod period = 0 is
    refreshed. At the others the skipped blocks add what they last added, the others reuse their MLP's
    output under a fresh gate, or compute it where t > compute_above · T, and guidance reuses ε_c − ε_u.

    Args:
        period: at least 1; 7 as published. 1 turns the cache off.
        skipped_blocks: residual blocks whose contribution is kept whole, 0-based; 1 to 4 as published.
            Blocks that a head does not have are ignored.
        compute_above: share of the chain, 0..1; 0.9 as published.
    """

    def __init__(
        self, period: int = 7, skipped_blocks: Sequence[int] = (1, 2, 3, 4), compute_above: float = 0.9
    ):
        if period < 1:
            raise ConfigError(f"cache.head.period={period} is too small; give 1 (always refresh) or more.")
        if any(block < 0 for block in skipped_blocks):
            raise ConfigError(
                f"cache.head.skipped_blocks={list(skipped_blocks)} has a negative block; give 0 or more."
            )
        if not 0 <= compute_above <= 1:
            raise ConfigError(
                f"cache.head.compute_above={compute_above} is no share of the chain; give 0 to 1."
            )
        self.period = period
        self.skipped_blocks = frozenset(skipped_blocks)
        self.compute_above = compute_above

    def check(self, plan: Plan, solver: Solver) -> None:
        """Refuse solvers that do not walk through the timesteps one by one."""
        if not solver.visits_every_timestep:
            raise ConfigError(
                f"cache.head reuses what the head computed at neighbouring timesteps, but sampler.solver "
                f"({type(solver).__name__}) does not visit them in turn; set cache.head=null or choose "
                "another solver."
            )

    def refreshes(self, index: int, num_steps: int) -> bool:
        """Whether timestep ``index`` of a chain of T is computed in full."""
        return index == num_steps - 1 or index % self.period == 0


class HeadCacheDenoiser:
    """The guided noise prediction of one chain under a :class:`HeadCache`; a chain has its own.

    Args: as :class:`mar_accel.sampling.denoiser.GuidedDenoiser`.
    """

    def __init__(
        self,
        cache: HeadCache,
        net: AdaLNMLP,
        z: Tensor,
        time_embeddings: Tensor,
        guidance_scale: float,
        guided: bool,
    ):
        self.cache, self.net, self.guided = cache, net, guided
        self.guidance_scale = guidance_scale
        self.blocks = cast("list[ResBlock]", list(net.res_blocks))
        self.time_embeddings = time_embeddings
        self.num_steps = time_embeddings.shape[0]
        self.embedding = net.cond_embed(z)
        # Conditional rows, the only ones that are computed between refreshes.
        self.conditional = self.embedding.chunk(2)[0] if guided else self.embedding
        self.mlp_outputs: dict[int, Tensor] = {}
        self.deltas: dict[int, Tensor] = {}
        self.difference: Tensor | None = None
        self._full: dict[int, _FullModulation] = {}
        self._partial: dict[int, _PartialModulation] = {}

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        x = x.to(self.embedding.dtype)
        if self.cache.refreshes(index, self.num_steps):
            return self._refresh(x, index)
        if index not in self._partial:
            self._partial = self._next_partial(index)
        gates, shift, scale = self._partial[index]
        if index > self.cache.compute_above * self.num_steps:
            hidden = self._compute(x, index)
        else:
            hidden = self._reuse(x, gates)
        epsilon, v = self._output(hidden, shift, scale).chunk(2, dim=-1)
        if self.difference is not None:
            # ε_u = ε_c − d, so ε_u + w·(ε_c − ε_u) = ε_c + (w − 1)·d.
            epsilon = torch.add(epsilon, self.difference, alpha=self.guidance_scale - 1)
        return epsilon, v

    def tensors(self) -> list[Tensor]:
        """Everything that is kept between timesteps, modulations aside."""
        difference = [] if self.difference is None else [self.difference]
        return [*self.mlp_outputs.values(), *self.deltas.values(), *difference]

    def _refresh(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Compute both branches and keep what the following timesteps reuse."""
        net, count = self.net, x.shape[0]
        if index not in self._full:
            self._full = self._next_full(index)
        modulations, shift, scale = self._full.pop(index)
        hidden = net.input_proj(torch.cat([x, x]) if self.guided else x)
        for number, (block, modulation) in enumerate(zip(self.blocks, modulations, strict=True)):
            output = block.mlp_output(hidden, modulation[0], modulation[1])
            gate = modulation[2]
            hidden = torch.addcmul(hidden, gate, output)
            if number in self.cache.skipped_blocks:
                self.deltas[number] = gate[:count] * output[:count]
            else:
                # A copy: a view would keep the unconditional half alive.
                self.mlp_outputs[number] = output[:count].clone() if self.guided else output
        out = self._output(hidden, shift, scale)
        self._partial.clear()
        if not self.guided:
            epsilon, v = out.chunk(2, dim=-1)
            return epsilon, v
        conditional, unconditional = out.chunk(2)
        epsilon, v = conditional.chunk(2, dim=-1)
        epsilon_u = unconditional[:, : epsilon.shape[-1]]
        self.difference = epsilon - epsilon_u
        return torch.lerp(epsilon_u, epsilon, self.guidance_scale), v

    def _compute(self, x: Tensor, index: int) -> Tensor:
        """The noisiest timesteps: blocks that are not skipped compute their MLP."""
        net = self.net
        activated = net.activate(self.time_embeddings[index], self.conditional)
        hidden = net.input_proj(x)
        for number, block in enumerate(self.blocks):
            hidden = hidden + self.deltas[number] if number in self.deltas else block(hidden, activated)
        return hidden

    def _reuse(self, x: Tensor, gates: dict[int, Tensor]) -> Tensor:
        """No block is computed: every contribution is kept, and only gates are fresh."""
        hidden = self.net.input_proj(x)
        for delta in self.deltas.values():
            hidden = hidden + delta
        for number, gate in gates.items():
            hidden = torch.addcmul(hidden, gate, self.mlp_outputs[number])
        return hidden

    def _output(self, hidden: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        final = self.net.final_layer
        return final.linear(modulate(final.norm_final(hidden), shift, scale))

    # Modulations depend on the timestep and z but not on x. Those of several timesteps are computed together
    # where there are few tokens: the weights, which cost most then, are read once for all of them.

    def _next_full(self, index: int) -> dict[int, _FullModulation]:
        """Modulations of the refresh ``index`` and of those after it, until their rows are many."""
        refreshes = [i for i in range(index, -1, -1) if self.cache.refreshes(i, self.num_steps)]
        refreshes = refreshes[: max(1, FULL_ROWS // self.embedding.shape[0])]
        activated = self._activate(refreshes, self.embedding)
        blocks = [block.modulation(activated) for block in self.blocks]
        shifts, scales = self._final_modulation(activated)
        return {
            i: (
                [(shift[row], scale[row], gate[row]) for shift, scale, gate in blocks],
                shifts[row],
                scales[row],
            )
            for row, i in enumerate(refreshes)
        }

    def _next_partial(self, index: int) -> dict[int, _PartialModulation]:
        """Modulations of ``index`` and those after it until a refresh, or until their rows are many."""
        most = max(1, PARTIAL_ROWS // self.conditional.shape[0])
        indices = [index]
        while indices[-1] > 0 and not self.cache.refreshes(indices[-1] - 1, self.num_steps):
            if len(indices) == most:
                break
            indices.append(indices[-1] - 1)
        activated = self._activate(indices, self.conditional)
        gates = {number: self.blocks[number].gate(activated) for number in self.mlp_outputs}
        shifts, scales = self._final_modulation(activated)
        return {
            i: ({number: gate[row] for number, gate in gates.items()}, shifts[row], scales[row])
            for row, i in enumerate(indices)
        }

    def _activate(self, indices: Sequence[int], embedding: Tensor) -> Tensor:
        """Activated conditions [g, rows, W] at timestep indices that are g in number."""
        times = torch.stack([self.time_embeddings[i] for i in indices]).unsqueeze(1)
        return self.net.activate(times, embedding)

    def _final_modulation(self, activated: Tensor) -> tuple[Tensor, Tensor]:
        shifts, scales = self.net.final_layer.adaLN_modulation[1](activated).chunk(2, dim=-1)
        return shifts, scales
