"""The decode loop. Everything that papers vary is an object passed to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mar_accel.models.mar import MAR
from mar_accel.models.transformer import gather_tokens, scatter_tokens
from mar_accel.sampling.contracts import (
    check_chain,
    check_conditioning_vectors,
    check_denoiser,
    check_scores,
)
from mar_accel.sampling.denoiser import embed_timesteps
from mar_accel.sampling.diffusion_schedule import diffusion_schedule
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

    model: MAR
    plan: Plan
    solver: Solver
    cache: CachePolicy
    selection: TokenSelection


@torch.inference_mode()
def decode(
    engine: Engine, class_embedding: Tensor, noise: SampleNoise, observer: Observer | None = None
) -> Tensor:
    """Decode all tokens of a batch.

    Args:
        class_embedding: condition of each image [B, D].
        noise: orders and noise of the batch, on the model's device.
        observer: receives every event. :class:`mar_accel.sampling.observer.Observers` combines several.

    Returns:
        Tokens [B, L, C], in grid order, float32.

    Raises:
        ConfigError: a cache, selection or solver returns a tensor of the wrong shape.
    """
    model, plan, cache = engine.model, engine.plan, engine.cache
    batch = class_embedding.shape[0]
    if plan.guided:
        class_embedding = torch.cat([class_embedding, model.unconditional_embedding(batch)])
    decoded = noise.noise.new_zeros(batch, plan.num_tokens, model.config.token_dim)
    observer = Observer() if observer is None else observer
    state = DecodeState(model, plan, class_embedding, noise.order, decoded, observer.encoded)
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
        plan, net = engine.plan, engine.model.diffloss.net
        lengths = {step.num_diffusion_steps for step in plan.steps}
        lengths |= {step.num_detail_diffusion_steps for step in plan.steps if step.num_detail_tokens}
        self.schedules = {length: diffusion_schedule(length, plan.max_timestep) for length in lengths}
        device = noise.noise.device
        self.time_embeddings = {
            length: embed_timesteps(net, schedule.timesteps, device)
            for length, schedule in self.schedules.items()
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
        engine, schedule, noise = self.engine, self.schedules[length], self.noise.noise
        guided = [step.guidance.covers(timestep) for timestep in schedule.timesteps]
        if not any(guided):
            z = z[: positions.shape[0]]
        index = positions[None, :, :, None].expand(schedule.num_steps + 1, -1, -1, noise.shape[-1])
        chain = Chain(
            net=engine.model.diffloss.net,
            z=z.flatten(0, 1),
            guided=guided,
            positions=positions,
            time_embeddings=self.time_embeddings[length],
            schedule=schedule,
            noise=noise[: schedule.num_steps + 1].gather(2, index).flatten(1, 2),
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
