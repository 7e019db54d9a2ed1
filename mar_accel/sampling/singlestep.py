"""Singlestep DPM-Solver++, the head solver of eMIGM."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from mar_accel.sampling.denoiser import Denoiser
from mar_accel.sampling.log_snr_schedule import Block, LogSNRSchedule, Node, log_snr_schedule
from mar_accel.utils.readable import Readable


class DPMSolverSinglestep(Readable):
    """Singlestep DPM-Solver++ of order 3 (arXiv:2211.01095) over log-SNR, as in eMIGM (arXiv:2503.07197).

    The chain has the given number of evaluations n ≥ 1, in steps of order 3 and a shorter last one. Its
    timesteps are fractions. It starts from noise and adds none later, so the temperature has no effect.
    Its noisiest timestep is fixed, so ``max_timestep`` has no effect either.

    Example:
        Sampler(solver=DPMSolverSinglestep(), diffusion_steps=ConstantDiffusionSteps(8))
    """

    visits_every_timestep = True

    def schedule(self, num_steps: int) -> LogSNRSchedule:
        """The timesteps of a chain with n evaluations."""
        return log_snr_schedule(num_steps)

    def sample(
        self, denoise: Denoiser, noise: Tensor, schedule: LogSNRSchedule, temperature: float
    ) -> Tensor:
        x, left = noise[0], schedule.num_steps

        def predict(x: Tensor, node: Node) -> Tensor:
            """D(x, τ) = (x − σ ε)/α, the prediction of the clean token."""
            nonlocal left
            left -= 1
            epsilon, _ = denoise(x, left)
            return (x - node.sigma * epsilon) / node.alpha

        for block in schedule.blocks:
            x = _STEPS[block.order](block, x, predict)
        return x


Predict = Callable[[Tensor, Node], Tensor]


def _first_order(block: Block, x: Tensor, predict: Predict) -> Tensor:
    start, end = block.nodes
    return _toward(start, end, block.length, x, predict(x, start))


def _second_order(block: Block, x: Tensor, predict: Predict) -> Tensor:
    start, middle, end = block.nodes
    (ratio,) = block.ratios
    first = predict(x, start)
    second = predict(_toward(start, middle, ratio * block.length, x, first), middle)
    return _toward(start, end, block.length, x, first + (second - first) / (2 * ratio))


def _third_order(block: Block, x: Tensor, predict: Predict) -> Tensor:
    start, inner, outer, end = block.nodes
    (r1, r2), h = block.ratios, block.length
    first = predict(x, start)
    change = predict(_toward(start, inner, r1 * h, x, first), inner) - first
    at_outer = _toward(start, outer, r2 * h, x, first) + r2 / r1 * outer.alpha * _bend(r2 * h) * change
    change = predict(at_outer, outer) - first
    return _toward(start, end, h, x, first) + end.alpha / r2 * _bend(h) * change


_STEPS = {1: _first_order, 2: _second_order, 3: _third_order}


def _toward(start: Node, end: Node, length: float, x: Tensor, x0: Tensor) -> Tensor:
    """The exact solution for a constant prediction x₀: (σ_t/σ_s) x + α_t (1 − e^{−h}) x₀."""
    return end.sigma / start.sigma * x + end.alpha * -math.expm1(-length) * x0


def _bend(length: float) -> float:
    """1 − (1 − e^{−h})/h, the weight of a prediction that changes along the step."""
    return 1 + math.expm1(-length) / length
