"""What a decode loop asks of a cache policy, and the policy that caches nothing."""

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
    """The state of a decode: what is known so far.

    Attributes:
        model: the model whose tokens are decoded.
        plan: the AR steps.
        embeddings: class embeddings [R, D]: B conditional rows, then B unconditional ones if any step is
            guided.
        order: decode orders [B, L].
        decoded: tokens in decode order [B, L, C]; valid before the current step's ``start``.
        observer: is told what happens.
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
        """Class embeddings of the branches that this step runs: [2B, D] if it is guided, else [B, D]."""
        return self.embeddings[: self.batch_size * step.num_branches]

    def known(self, step: ARStep) -> tuple[Tensor, Tensor]:
        """Tokens [B, start, C] and grid positions [B, start] decoded before this step."""
        return self.decoded[:, : step.start], self.order[:, : step.start]

    def predicted(self, step: ARStep) -> Tensor:
        """Grid positions [B, n] that this step decodes."""
        return self.order[:, step.start : step.stop]

    def encoded(self, step: ARStep, x: Tensor) -> Tensor:
        """Tell the observer that the encoder's work of a step is done; returns its output x unchanged.

        Every policy that runs the backbone calls it once per step, between encoder and decoder. Otherwise
        the seconds and FLOPs of the decoder count as the encoder's.
        """
        self.observer.encoded(self, step, x)
        return x


class CachePolicy(ModelDefaults):
    """Answers for conditioning vectors and noise predictions; this one computes everything anew.

    A subclass keeps what it wants between calls. It is asked, in turn: ``check`` once before anything
    runs, ``start`` at the beginning of a batch, ``conditioning_vectors`` then ``denoiser`` (once for
    each group of tokens with the same T) at every AR step, and ``finish`` after the batch.
    """

    def check(self, model: MARConfig, plan: Plan, solver: Solver) -> None:
        """Raise :class:`mar_accel.errors.ConfigError` if the policy cannot work with these."""

    def start(self, state: DecodeState) -> None:
        """Forget the previous batch and prepare for a new one."""

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        """z of the positions that ``step`` predicts: [2B, n, D] if it is guided, conditional rows first.

        A step without guidance has the conditional rows alone: [B, n, D].
        """
        tokens, known = state.known(step)
        x = state.encoded(step, state.model.encode_tokens(state.embedding(step), tokens, known))
        return state.model.predict(x, known, state.predicted(step))

    def denoiser(
        self, net: AdaLNMLP, z: Tensor, time_embeddings: Tensor, step: ARStep, guided: Sequence[bool]
    ) -> Denoiser:
        """The noise prediction of one chain.

        Args:
            z: [2n, D], conditional rows first, if any timestep is guided; else [n, D].
            time_embeddings: [T, W], the chain's timesteps in growing order.
            guided: [T], whether both branches are combined at a timestep.
        """
        return GuidedDenoiser(net, z, time_embeddings, step.guidance, guided)

    def finish(self) -> None:
        """Free what was kept."""


class NoCache(CachePolicy):
    """``cache=none``: the unaccelerated model, against which everything is measured."""
