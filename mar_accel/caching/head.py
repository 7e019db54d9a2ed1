"""LazyMAR's head cache: most timesteps of a diffusion chain reuse what a few of them computed.

Source: LazyMAR (arXiv:2503.12450) as its public implementation does it; see docs/caches.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.models.diffusion_head import AdaLNMLP, modulate
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.solvers import Solver

# Modulations of timesteps until the next refresh are computed together where there are few tokens: the
# weights are then read once for all of them. More rows than this gain nothing and cost memory.
BATCHED_ROWS = 4096


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
        self.time_embeddings = time_embeddings
        self.num_steps = time_embeddings.shape[0]
        self.embedding = net.cond_embed(z)
        # Conditional rows, the only ones that are computed between refreshes.
        self.conditional = self.embedding.chunk(2)[0] if guided else self.embedding
        self.mlp_outputs: dict[int, Tensor] = {}
        self.deltas: dict[int, Tensor] = {}
        self.difference: Tensor | None = None
        self._modulations: dict[int, _Modulation] = {}

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        x = x.to(self.embedding.dtype)
        if self.cache.refreshes(index, self.num_steps):
            return self._refresh(x, index)
        modulation = self._modulation(index)
        if index > self.cache.compute_above * self.num_steps:
            hidden = self._compute(x, index)
        else:
            hidden = self._reuse(x, modulation)
        epsilon, v = self._output(hidden, modulation).chunk(2, dim=-1)
        if self.difference is not None:
            # ε_u = ε_c − d, so ε_u + w·(ε_c − ε_u) = ε_c + (w − 1)·d.
            epsilon = torch.add(epsilon, self.difference, alpha=self.guidance_scale - 1)
        return epsilon, v

    def _refresh(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Compute both branches and keep what the following timesteps reuse."""
        net, count = self.net, x.shape[0]
        activated = net.activate(self.time_embeddings[index], self.embedding)
        hidden = net.input_proj(torch.cat([x, x]) if self.guided else x)
        for number, block in enumerate(net.res_blocks):
            shift, scale, gate = block.modulation(activated)
            output = block.mlp_output(hidden, shift, scale)
            hidden = torch.addcmul(hidden, gate, output)
            if number in self.cache.skipped_blocks:
                self.deltas[number] = gate[:count] * output[:count]
            else:
                self.mlp_outputs[number] = output[:count]
        out = net.final_layer(hidden, activated)
        self._modulations.clear()
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
        for number, block in enumerate(net.res_blocks):
            hidden = hidden + self.deltas[number] if number in self.deltas else block(hidden, activated)
        return hidden

    def _reuse(self, x: Tensor, modulation: _Modulation) -> Tensor:
        """No block is computed: every contribution is kept, and only gates are fresh."""
        hidden = self.net.input_proj(x)
        for delta in self.deltas.values():
            hidden = hidden + delta
        for number, gate in modulation.gates.items():
            hidden = torch.addcmul(hidden, gate, self.mlp_outputs[number])
        return hidden

    def _output(self, hidden: Tensor, modulation: _Modulation) -> Tensor:
        final = self.net.final_layer
        return final.linear(modulate(final.norm_final(hidden), modulation.shift, modulation.scale))

    def _modulation(self, index: int) -> _Modulation:
        """The modulation of a timestep between refreshes; computed for several timesteps at once."""
        if index not in self._modulations:
            self._modulations = self._next_modulations(index)
        return self._modulations[index]

    def _next_modulations(self, index: int) -> dict[int, _Modulation]:
        """Modulations of ``index`` and the timesteps that follow it until a refresh, or until they are many."""
        rows = self.conditional.shape[0]
        low = index
        while low > 0 and not self.cache.refreshes(low - 1, self.num_steps):
            if (index - low + 2) * rows > BATCHED_ROWS:
                break
            low -= 1
        times = self.time_embeddings[low : index + 1].unsqueeze(1)
        activated = self.net.activate(times, self.conditional)
        final = self.net.final_layer.adaLN_modulation[1](activated)
        shifts, scales = final.chunk(2, dim=-1)
        gates = {number: self.net.res_blocks[number].gate(activated) for number in self.mlp_outputs}
        return {
            low + i: _Modulation(shifts[i], scales[i], {number: gate[i] for number, gate in gates.items()})
            for i in range(index - low + 1)
        }


class _Modulation:
    """Shift and scale of the final layer and gates of the blocks that are not skipped, at one timestep."""

    def __init__(self, shift: Tensor, scale: Tensor, gates: dict[int, Tensor]):
        self.shift, self.scale, self.gates = shift, scale, gates
