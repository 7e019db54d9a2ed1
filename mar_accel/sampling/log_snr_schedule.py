"""Chains in log-SNR λ = log(α/σ), for the singlestep solver: continuous times instead of training timesteps.

Source: DPM-Solver++ (arXiv:2211.01095), with the schedule of eMIGM (arXiv:2503.07197). The published schedule
is float32. Its rounding near the end of a chain moves the tokens by 1e-4 or more, so it is reproduced here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from mar_accel.models.diffusion import NUM_TRAIN_TIMESTEPS, cosine_alphas_cumprod
from mar_accel.sampling.diffusion_schedule import ChainSchedule, check_num_steps

# Training timesteps with a lower λ are left out: they are almost pure noise.
LEAST_LAMBDA = -5.1
MAX_ORDER = 3


@dataclass(frozen=True)
class Node:
    """A point of a chain.

    Attributes:
        time: continuous time, from 1 (noise) down to 1/N.
        alpha, sigma: factors of token and noise, α² + σ² = 1.
        log_snr: λ = log(α/σ).
    """

    time: float
    alpha: float
    sigma: float
    log_snr: float


@dataclass(frozen=True)
class Block:
    """One step of the solver, from high to low noise, with as many evaluations as its order.

    Attributes:
        nodes: start, inner points (order − 1 of them) and end.
        ratios: places of the inner points in λ, 0..1: r_1 of order 2, r_1 and r_2 of order 3.
    """

    nodes: tuple[Node, ...]
    ratios: tuple[float, ...]

    @property
    def order(self) -> int:
        return len(self.nodes) - 1

    @property
    def length(self) -> float:
        """h = λ_end − λ_start."""
        return self.nodes[-1].log_snr - self.nodes[0].log_snr


@dataclass(frozen=True)
class LogSNRSchedule(ChainSchedule):
    """A chain in steps of equal length in λ.

    Attributes:
        blocks: the steps, from high to low noise.
    """

    blocks: tuple[Block, ...]

    @property
    def num_draws(self) -> int:
        return 1


def block_orders(num_steps: int) -> list[int]:
    """Orders of the ⌊n/3⌋ + 1 steps of a chain with n evaluations.

    Example:
        >>> block_orders(8), block_orders(9)
        ([3, 3, 2], [3, 3, 2, 1])
    """
    whole, rest = divmod(num_steps, MAX_ORDER)
    return [MAX_ORDER] * (whole - 1) + [2, 1] if rest == 0 else [MAX_ORDER] * whole + [rest]


@lru_cache
def log_snr_schedule(num_steps: int) -> LogSNRSchedule:
    """The schedule of n evaluations.

    Args:
        num_steps: n, in 1..1000.

    Raises:
        ConfigError: n is out of range.

    Example:
        >>> [round(t) for t in log_snr_schedule(4).timesteps]
        [502, 887, 981, 999]
    """
    check_num_steps(num_steps)
    process = _Process()
    orders = block_orders(num_steps)
    first, last = process.log_snr(process.knots[-1]), process.log_snr(process.knots[0])
    times = process.time(np.linspace(first, last, len(orders) + 1, dtype=np.float32))
    edges = zip(pairwise(times), orders, strict=True)
    blocks = tuple(process.block(start, stop, order) for (start, stop), order in edges)
    evaluated = [node.time for block in blocks for node in block.nodes[:-1]]
    timesteps = [NUM_TRAIN_TIMESTEPS * (time - float(process.knots[0])) for time in reversed(evaluated)]
    return LogSNRSchedule(tuple(timesteps), blocks)


class _Process:
    """The cosine process in continuous time: knot i = 1…N is at i/N, and log α is linear between knots."""

    def __init__(self) -> None:
        log_alphas = 0.5 * np.log(cosine_alphas_cumprod())
        log_snr = log_alphas - 0.5 * np.log(1 - np.exp(2 * log_alphas))
        self.log_alphas = log_alphas[log_snr >= LEAST_LAMBDA].astype(np.float32)
        count = len(self.log_alphas)
        self.knots = (np.arange(1, count + 1) / count).astype(np.float32)

    def log_alpha(self, time: np.ndarray) -> np.ndarray:
        return np.interp(time, self.knots, self.log_alphas).astype(np.float32)

    def log_snr(self, time: np.ndarray) -> np.ndarray:
        log_alpha = self.log_alpha(time)
        return log_alpha - np.float32(0.5) * np.log(np.float32(1) - np.exp(np.float32(2) * log_alpha))

    def time(self, log_snr: np.ndarray) -> np.ndarray:
        log_alpha = np.float32(-0.5) * np.logaddexp(np.float32(0), np.float32(-2) * log_snr)
        return np.interp(-log_alpha, -self.log_alphas, self.knots).astype(np.float32)

    def block(self, start: np.ndarray, stop: np.ndarray, order: int) -> Block:
        """A step from one time to another; the places of its inner points are those after rounding."""
        first, last = self.log_snr(start), self.log_snr(stop)
        rounded = self.log_snr(self.time(np.linspace(first, last, order + 1, dtype=np.float32)))
        ratios = (rounded[1:-1] - rounded[0]) / (rounded[-1] - rounded[0])
        inner = self.time(first + ratios * (last - first))
        nodes = tuple(self._node(time) for time in (start, *inner, stop))
        return Block(nodes, tuple(map(float, ratios)))

    def _node(self, time: np.ndarray) -> Node:
        log_alpha = self.log_alpha(time)
        sigma = np.sqrt(np.float32(1) - np.exp(np.float32(2) * log_alpha))
        return Node(float(time), float(np.exp(log_alpha)), float(sigma), float(self.log_snr(time)))
