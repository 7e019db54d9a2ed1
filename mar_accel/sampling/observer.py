"""What can be seen of a decode without changing it: timers, counters, recorders, probes and progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.sampling.denoiser import Denoiser
from mar_accel.sampling.diffusion_schedule import DiffusionSchedule
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.solvers import Solver

if TYPE_CHECKING:
    from mar_accel.sampling.policy import DecodeState


@dataclass(frozen=True)
class Chain:
    """Everything that a diffusion chain of n tokens per image is run from.

    Attributes:
        net: the head's network.
        z: conditioning vectors [R·n, D]: conditional rows first, then unconditional ones if guided.
        guided: whether both branches run, by timestep; as :meth:`CachePolicy.denoiser` takes it.
        positions: grid positions [B, n] of the tokens.
        time_embeddings: embeddings [T, W] of the schedule's timesteps, in growing order.
        schedule: T timesteps.
        noise: [T+1, B·n, C], float32.
        temperature: factor on the noise of ancestral steps.
        solver: runs the chain.
    """

    net: AdaLNMLP
    z: Tensor
    guided: Sequence[bool]
    positions: Tensor
    time_embeddings: Tensor
    schedule: DiffusionSchedule
    noise: Tensor
    temperature: float
    solver: Solver

    def run(self, denoise: Denoiser) -> Tensor:
        """The tokens [B·n, C] that the chain gives under a noise prediction; can be run again."""
        return self.solver.sample(denoise, self.noise, self.schedule, self.temperature)


class Observer:
    """Is told of every event of a decode; a subclass overrides the events that it needs.

    A batch begins with ``start`` and ends with ``finish``. Every AR step between them is: ``step_start``,
    ``encoded``, ``conditioning``, a pair ``chain_start`` and ``chain_end`` for each group of tokens with the
    same T, ``step_end``. Whoever turns tokens into images adds ``autoencoder_start`` and ``autoencoder_end``.

    Tensors are those of the decode, not copies. An observer must not write into them: the images are the
    same with and without observers. What it keeps for later, it clones.

    Example:
        >>> class StepCounter(Observer):
        ...     steps = 0
        ...
        ...     def step_end(self, state, step):
        ...         self.steps += 1
    """

    def start(self, state: DecodeState) -> None:
        """A batch begins; nothing is decoded yet."""

    def step_start(self, state: DecodeState, step: ARStep) -> None:
        """An AR step begins; the work of the backbone comes next."""

    def encoded(self, state: DecodeState, step: ARStep, x: Tensor) -> None:
        """The encoder's work of a step is done, the decoder's comes next.

        Cache policies announce it through :meth:`mar_accel.sampling.policy.DecodeState.encoded`. A policy
        that does not run the backbone at a step does not announce it there.

        Args:
            x: encoder outputs [rows, m, D], before ``encoder_norm``; a lazy step has fewer tokens and rows.
        """

    def conditioning(self, state: DecodeState, step: ARStep, z: Tensor) -> None:
        """The backbone's work of a step is done, the head's comes next.

        Args:
            z: conditioning vectors [R, n, D] of ``state.predicted(step)``.
        """

    def chain_start(self, state: DecodeState, step: ARStep, chain: Chain) -> None:
        """A diffusion chain is about to run."""

    def chain_end(self, state: DecodeState, step: ARStep, chain: Chain, tokens: Tensor) -> None:
        """A diffusion chain has given its tokens [B·n, C], at ``chain.positions``."""

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        """An AR step is done; ``state.decoded[:, :step.stop]`` holds the tokens so far."""

    def finish(self, state: DecodeState) -> None:
        """A batch is done; what the cache kept is freed after this."""

    def autoencoder_start(self, latents: Tensor) -> None:
        """Latents [B, c, H, W] are about to be turned into images."""

    def autoencoder_end(self, images: Tensor) -> None:
        """Images [B, 1 or 3, H, W] are there, float32 in 0..1."""


class Observers(Observer):
    """Several observers as one: each event goes to all of them, in their order."""

    def __init__(self, observers: Iterable[Observer]):
        self.observers = tuple(observers)

    def start(self, state: DecodeState) -> None:
        for observer in self.observers:
            observer.start(state)

    def step_start(self, state: DecodeState, step: ARStep) -> None:
        for observer in self.observers:
            observer.step_start(state, step)

    def encoded(self, state: DecodeState, step: ARStep, x: Tensor) -> None:
        for observer in self.observers:
            observer.encoded(state, step, x)

    def conditioning(self, state: DecodeState, step: ARStep, z: Tensor) -> None:
        for observer in self.observers:
            observer.conditioning(state, step, z)

    def chain_start(self, state: DecodeState, step: ARStep, chain: Chain) -> None:
        for observer in self.observers:
            observer.chain_start(state, step, chain)

    def chain_end(self, state: DecodeState, step: ARStep, chain: Chain, tokens: Tensor) -> None:
        for observer in self.observers:
            observer.chain_end(state, step, chain, tokens)

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        for observer in self.observers:
            observer.step_end(state, step)

    def finish(self, state: DecodeState) -> None:
        for observer in self.observers:
            observer.finish(state)

    def autoencoder_start(self, latents: Tensor) -> None:
        for observer in self.observers:
            observer.autoencoder_start(latents)

    def autoencoder_end(self, images: Tensor) -> None:
        for observer in self.observers:
            observer.autoencoder_end(images)
