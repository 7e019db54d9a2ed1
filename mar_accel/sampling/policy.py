"""The interface between decode loop and cache policy, and the policy without a cache."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mar_accel.models.backbone import BackboneConfig
from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.sampling.denoiser import Denoiser, GuidedDenoiser
from mar_accel.sampling.model_defaults import ModelDefaults
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.solvers import Solver
from mar_accel.sampling.state import DecodeState


class CachePolicy(ModelDefaults):
    """Provides conditioning vectors and noise predictions. The base class recomputes everything.

    A subclass may keep tensors between calls. ``check`` is called once, before sampling. Each batch calls
    ``start`` first and ``finish`` last. Each AR step calls ``conditioning_vectors``, then ``denoiser`` once
    for each group of tokens with the same T.

    Example:
        class ConditionalOnly(CachePolicy):
            def denoiser(self, net, z, time_embeddings, step, guided):
                z = z.chunk(2)[0] if any(guided) else z
                return GuidedDenoiser(net, z, time_embeddings, Guidance(), [False] * len(guided))
    """

    def check(self, model: BackboneConfig, plan: Plan, solver: Solver) -> None:
        """Raise :class:`mar_accel.errors.ConfigError` if the policy does not support a setting."""

    def start(self, state: DecodeState) -> None:
        """Discard the previous batch and prepare for a new one."""

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        """Conditioning vectors z at the positions that ``step`` predicts.

        Returns:
            [2B, n, D] at a guided step, conditional rows first; [B, n, D] without guidance.
        """
        (tokens, known), condition = state.known(step), state.condition_of(step)
        x = state.encoded(step, state.model.encode_tokens(condition, tokens, known))
        return state.model.predict(condition, x, known, state.predicted(step))

    def denoiser(
        self, net: AdaLNMLP, z: Tensor, time_embeddings: Tensor, step: ARStep, guided: Sequence[bool]
    ) -> Denoiser:
        """Noise prediction for one chain.

        Args:
            net: network of the head.
            z: conditioning vectors [n, D]. If any timestep is guided: [2n, D], conditional rows first.
            time_embeddings: embeddings of the chain's timesteps [T, W], in ascending order.
            step: the AR step of the chain.
            guided: whether each of the T timesteps combines both branches.
        """
        return GuidedDenoiser(net, z, time_embeddings, step.guidance, guided)

    def finish(self) -> None:
        """Free all cached tensors."""


class NoCache(CachePolicy):
    """``cache=none``: no cache. This is the reference for all speedups."""
