"""The interface between decode loop and cache policy, and the policy without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.denoiser import Denoiser, GuidedDenoiser
from mar_accel.sampling.model_defaults import ModelDefaults
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.solvers import Solver


@dataclass
class DecodeState:
    """State of a decode.

    Attributes:
        model: the model that decodes.
        plan: the AR steps.
        embeddings: class embeddings [R, D]: B conditional rows, then B unconditional rows if any step is
            guided.
        order: decode orders [B, L].
        decoded: tokens in decode order [B, L, C]. Only those before ``start`` of the current step are valid.
        observer: receives the events.
    """

    model: MAR
    plan: Plan
    embeddings: Tensor
    order: Tensor
    decoded: Tensor
    observer: Observer = field(default_factory=Observer)

    @property
    def batch_size(self) -> int:
        return self.order.shape[0]

    def embedding(self, step: ARStep) -> Tensor:
        """Class embeddings of the branches that this step runs: [2B, D] if guided, else [B, D]."""
        return self.embeddings[: self.batch_size * step.num_branches]

    def known(self, step: ARStep) -> tuple[Tensor, Tensor]:
        """Tokens [B, start, C] and grid positions [B, start] decoded before this step."""
        return self.decoded[:, : step.start], self.order[:, : step.start]

    def predicted(self, step: ARStep) -> Tensor:
        """Grid positions [B, n] that this step decodes."""
        return self.order[:, step.start : step.stop]

    def encoded(self, step: ARStep, x: Tensor) -> Tensor:
        """Report to the observer that the encoder has finished; returns its output x unchanged.

        Every policy that runs the backbone must call this once per step, between encoder and decoder.
        Otherwise, time and FLOPs of the decoder are attributed to the encoder.
        """
        self.observer.encoded(self, step, x)
        return x


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

    def check(self, model: MARConfig, plan: Plan, solver: Solver) -> None:
        """Raise :class:`mar_accel.errors.ConfigError` if the policy does not support a setting."""

    def start(self, state: DecodeState) -> None:
        """Discard the previous batch and prepare for a new one."""

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        """Conditioning vectors z at the positions that ``step`` predicts.

        Returns:
            [2B, n, D] at a guided step, conditional rows first; [B, n, D] without guidance.
        """
        tokens, known = state.known(step)
        x = state.encoded(step, state.model.encode_tokens(state.embedding(step), tokens, known))
        return state.model.predict(x, known, state.predicted(step))

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
