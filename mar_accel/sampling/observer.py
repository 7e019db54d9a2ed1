"""Observers of the decode loop: timers, counters, recorders, probes and progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partialmethod
from typing import Any

from torch import Tensor

from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.sampling.denoiser import Denoiser
from mar_accel.sampling.diffusion_schedule import ChainSchedule
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.solvers import Solver
from mar_accel.sampling.state import DecodeState


@dataclass(frozen=True)
class Chain:
    """Inputs of a diffusion chain of n tokens per image.

    Attributes:
        net: network of the head.
        z: conditioning vectors [R·n, D]: conditional rows, then unconditional rows if guided.
        guided: whether both branches run, one flag per timestep [T].
        positions: grid positions of the tokens [B, n].
        time_embeddings: embeddings of the schedule's timesteps [T, W], in ascending order.
        schedule: schedule with T timesteps.
        noise: standard normal noise [``schedule.num_draws``, B·n, C], float32.
        temperature: factor on the noise of ancestral steps.
        solver: runs the chain.
    """

    net: AdaLNMLP
    z: Tensor
    guided: Sequence[bool]
    positions: Tensor
    time_embeddings: Tensor
    schedule: ChainSchedule
    noise: Tensor
    temperature: float
    solver: Solver

    def run(self, denoise: Denoiser) -> Tensor:
        """Run the chain with a noise prediction; returns tokens [B·n, C]. It can be run repeatedly."""
        return self.solver.sample(denoise, self.noise, self.schedule, self.temperature)


class Observer:
    """Receives the events of the decode loop. A subclass overrides the events that it needs.

    A batch begins with ``start`` and ends with ``finish``. Each AR step sends, in this order:
    ``step_start``, ``encoded``, ``conditioning``, ``chain_start``, ``chain_end`` and ``step_end``.
    The two chain events repeat for each group of tokens with the same T. The caller that decodes tokens
    into images adds ``autoencoder_start`` and ``autoencoder_end``.

    Tensors are not copies. An observer must not write into them, so that images stay the same. It must
    clone what it stores for later.

    Example:
        >>> class StepCounter(Observer):
        ...     steps = 0
        ...
        ...     def step_end(self, state, step):
        ...         self.steps += 1
    """

    def start(self, state: DecodeState) -> None:
        """A batch begins. No token is decoded yet."""

    def step_start(self, state: DecodeState, step: ARStep) -> None:
        """An AR step begins. The backbone runs next."""

    def encoded(self, state: DecodeState, step: ARStep, x: Tensor) -> None:
        """The encoder has finished. The decoder runs next.

        Cache policies send this event by :meth:`mar_accel.sampling.state.DecodeState.encoded`. A step
        that does not run the backbone does not send it.

        Args:
            x: encoder outputs [rows, m, D], before ``encoder_norm``. Lazy steps have fewer tokens and rows.
        """

    def conditioning(self, state: DecodeState, step: ARStep, z: Tensor) -> None:
        """The backbone has finished. The head runs next.

        Args:
            z: conditioning vectors [R, n, D] at ``state.predicted(step)``.
        """

    def chain_start(self, state: DecodeState, step: ARStep, chain: Chain) -> None:
        """A diffusion chain begins."""

    def chain_end(self, state: DecodeState, step: ARStep, chain: Chain, tokens: Tensor) -> None:
        """A diffusion chain has finished: tokens [B·n, C] at ``chain.positions``."""

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        """An AR step has finished. ``state.decoded[:, :step.stop]`` holds the tokens so far."""

    def finish(self, state: DecodeState) -> None:
        """A batch has finished. The cache frees its tensors after this event."""

    def autoencoder_start(self, latents: Tensor) -> None:
        """The autoencoder begins to decode latents [B, c, H, W]."""

    def autoencoder_end(self, images: Tensor) -> None:
        """The autoencoder has finished: images [B, 1 or 3, H, W], float32 in 0..1."""


class Observers(Observer):
    """Combines several observers. Each event goes to all of them, in order."""

    def __init__(self, observers: Iterable[Observer]):
        self.observers = tuple(observers)

    def _send(self, event: str, *values: Any) -> None:
        for observer in self.observers:
            getattr(observer, event)(*values)


# Every event of Observer, so that none can be forgotten here.
EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))
for _event in EVENTS:
    setattr(Observers, _event, partialmethod(Observers._send, _event))
