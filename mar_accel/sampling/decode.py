"""The decode loop. Everything that papers vary is an object passed to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.condition import Condition
from mar_accel.models.transformer import gather_tokens, scatter_tokens
from mar_accel.sampling.contracts import (
    check_chain,
    check_conditioning_vectors,
    check_denoiser,
    check_scores,
)
from mar_accel.sampling.denoiser import embed_timesteps
from mar_accel.sampling.noise import SampleNoise
from mar_accel.sampling.observer import Chain, Observer
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.selection import TokenSelection
from mar_accel.sampling.solvers import Solver
from mar_accel.sampling.state import DecodeState


@dataclass(frozen=True)
class Engine:
    """The objects that decode a batch.

    Attributes:
        model: network in evaluation mode, on its device.
        plan: the AR steps.
        solver: turns noise into tokens.
        cache: computes or reuses conditioning vectors and noise predictions.
        selection: chooses the tokens that get more diffusion steps, if the plan has any.
    """

    model: TokenBackbone
    plan: Plan
    solver: Solver
    cache: CachePolicy
    selection: TokenSelection


@torch.inference_mode()
def decode(
    engine: Engine,
    condition: Condition,
    noise: SampleNoise,
    observer: Observer | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Decode all tokens of a batch that are not known.

    Args:
        condition: conditional branch of each image, from ``model.condition``.
        noise: orders and noise of the batch, on the model's device.
        observer: receives every event. :class:`mar_accel.sampling.observer.Observers` combines several.
        known: tokens [B, L, C] in grid order, float32. The first ``plan.num_known`` of each order are known.

    Returns:
        Tokens [B, L, C], in grid order, float32. Known tokens are those that were given.

    Raises:
        ConfigError: a cache, selection or solver returns a tensor of the wrong shape.
    """
    model, plan, cache = engine.model, engine.plan, engine.cache
    batch = condition.batch_size
    if plan.guided:
        condition = condition.with_branch(model.unconditional(batch))
    decoded = noise.noise.new_zeros(batch, plan.num_tokens, model.config.token_dim)
    if known is not None:
        decoded[:, : plan.num_known] = gather_tokens(known, noise.order[:, : plan.num_known])
    observer = Observer() if observer is None else observer
    state = DecodeState(model, plan, condition, noise.order, decoded, observer.encoded)
    observer.start(state)
    chains = _Chains(engine, noise, state, observer)
    cache.start(state)
    for step in plan.steps:
        observer.step_start(state, step)
        z = cache.conditioning_vectors(state, step)
        check_conditioning_vectors(cache, z, state, step)
        observer.conditioning(state, step, z)
        decoded[:, step.start : step.stop] = chains.sample(z, state.predicted(step), step)
        observer.step_end(state, step)
    observer.finish(state)
    cache.finish()
    return scatter_tokens(torch.empty_like(decoded), noise.order, decoded)


class _Chains:
    """Runs the diffusion chains of a step, grouped by number of diffusion steps."""

    def __init__(self, engine: Engine, noise: SampleNoise, state: DecodeState, observer: Observer):
        self.engine = engine
        self.noise = noise
        self.state = state
        self.observer = observer
        net, device = engine.model.diffloss.net, noise.noise.device
        self.time_embeddings = {
            length: embed_timesteps(net, schedule.timesteps, device)
            for length, schedule in engine.plan.schedules.items()
        }

    def sample(self, z: Tensor, positions: Tensor, step: ARStep) -> Tensor:
        """Turn z [R, n, D] at positions [B, n] into tokens [B, n, C]."""
        if not step.num_detail_tokens:
            return self._chain(z, positions, step, step.num_diffusion_steps)
        detail, rest = self._split(z, positions, step)
        tokens = self.noise.noise.new_empty(*positions.shape, self.engine.model.config.token_dim)
        for chosen, length in (
            (detail, step.num_detail_diffusion_steps),
            (rest, step.num_diffusion_steps),
        ):
            if chosen.shape[1]:
                rows = chosen.repeat(z.shape[0] // chosen.shape[0], 1)
                values = self._chain(gather_tokens(z, rows), positions.gather(1, chosen), step, length)
                scatter_tokens(tokens, chosen, values)
        return tokens

    def _split(self, z: Tensor, positions: Tensor, step: ARStep) -> tuple[Tensor, Tensor]:
        """Split the n tokens of a step into indices of the selected [B, m] and of the others [B, n-m]."""
        random_scores = self.noise.selection_scores.gather(1, positions)
        scores = self.engine.selection.scores(z[: positions.shape[0]], random_scores)
        check_scores(self.engine.selection, scores, positions)
        ranked = scores.argsort(dim=1, descending=True, stable=True)
        return ranked[:, : step.num_detail_tokens], ranked[:, step.num_detail_tokens :]

    def _chain(self, z: Tensor, positions: Tensor, step: ARStep, length: int) -> Tensor:
        """Run one chain of equal length for all tokens; returns [B, n, C]."""
        engine, schedule, noise = self.engine, self.engine.plan.schedules[length], self.noise.noise
        guided = [step.guidance.covers(timestep) for timestep in schedule.timesteps]
        if not any(guided):
            z = z[: positions.shape[0]]
        index = positions[None, :, :, None].expand(schedule.num_draws, -1, -1, noise.shape[-1])
        chain = Chain(
            net=engine.model.diffloss.net,
            z=z.flatten(0, 1),
            guided=guided,
            positions=positions,
            time_embeddings=self.time_embeddings[length],
            schedule=schedule,
            noise=noise[: schedule.num_draws].gather(2, index).flatten(1, 2),
            temperature=engine.plan.temperature,
            solver=engine.solver,
        )
        denoise = engine.cache.denoiser(chain.net, chain.z, chain.time_embeddings, step, chain.guided)
        check_denoiser(engine.cache, denoise, step)
        self.observer.chain_start(self.state, step, chain)
        tokens = chain.run(denoise)
        check_chain(engine.solver, tokens, chain.noise)
        self.observer.chain_end(self.state, step, chain, tokens)
        return tokens.unflatten(0, tuple(positions.shape))
