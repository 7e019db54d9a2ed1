"""Step sizes of a masking function: time gives the probability that a masked token is decoded (eMIGM)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np

from mar_accel.errors import ConfigError
from mar_accel.sampling.noise import RunStream, run_generator
from mar_accel.sampling.step_sizes import StepSize, StepSizes, check_num_iter, with_stages

# Share of masked tokens f(t) at time t, from 1 (all masked) down to 0.
FUNCTIONS: dict[str, Callable[[float], float]] = {
    "exp": lambda t: -math.expm1(-5 * t),
    "cosine": lambda t: math.cos(math.pi / 2 * (1 - t)),
    "linear": lambda t: t,
    "sqrt": lambda t: math.sqrt(t),
    "log": lambda t: math.log1p(math.expm1(5) * t) / 5,
}
LAST_TIME = 1e-5


class RateSteps(StepSizes):
    """eMIGM's step sizes (arXiv:2503.07197): few tokens first, most of them in the last steps.

    Step k goes from time t_k to t_{k+1}, with t_j = linspace(1, 1e-5, K + 1). It decodes each masked token
    with probability p_k = 1 − f(t_{k+1})/f(t_k), and p of the last step is 1.

    Args:
        num_iter: number of AR steps K, in 1..L.
        function: f. "exp" 1 − e^{−5t}, "cosine" cos(π/2·(1 − t)), "linear" t, "sqrt" √t,
            "log" ln(1 + (e⁵ − 1)·t)/5. eMIGM uses "exp".
        draw: how many tokens a step decodes.
            "expected": the expected number, rounded (ours). Sizes are known, and the same in every run.
            "bernoulli": as published, at least 1 and else a draw from the binomial distribution. The seed
            of the run decides, and all images have the same sizes. There may be fewer than K steps.

    Example:
        RateSteps(16).sizes([256])  # 1, 1, 2, 2, 2, 3, 4, 6, 8, 10, 15, 19, 27, 37, 50, 69
    """

    def __init__(
        self,
        num_iter: int | None = 64,
        function: Literal["exp", "cosine", "linear", "sqrt", "log"] = "exp",
        draw: Literal["expected", "bernoulli"] = "expected",
    ):
        if num_iter is None:
            raise ConfigError("sampler.num_iter must be an integer with step_sizes=exp, got null; set it.")
        for key, value, known in (
            ("function", function, tuple(FUNCTIONS)),
            ("draw", draw, ("expected", "bernoulli")),
        ):
            if value not in known:
                raise ConfigError(f"sampler.step_sizes.{key} must be one of {', '.join(known)}, got {value}.")
        self.num_iter = num_iter
        self.function = function
        self.draw = draw
        self._seed = 0

    def for_seed(self, seed: int) -> StepSizes:
        seeded = copy.copy(self)
        seeded._seed = seed
        return seeded

    def sizes(self, stage_sizes: Sequence[int]) -> list[int]:
        length = sum(stage_sizes)
        check_num_iter(self.num_iter, length)
        probabilities = decode_probabilities(self.num_iter, FUNCTIONS[self.function])
        if self.draw == "expected":
            return expected_split(length, probabilities)
        return drawn_split(length, probabilities, run_generator(self._seed, RunStream.STEP_SIZES))

    def split(self, stage_sizes: Sequence[int]) -> list[StepSize]:
        # Drawn sizes can end early. AR time belongs to the K steps of the schedule nevertheless.
        steps = with_stages(self.sizes(stage_sizes), stage_sizes)
        return [replace(step, num_iter=self.num_iter) for step in steps]


def ar_time(step: int, num_iter: int) -> float:
    """Time t_j of eMIGM before step j of K: from 1 down to 1e-5 after the last step."""
    return 1 - step / num_iter * (1 - LAST_TIME)


def decode_probabilities(num_iter: int, masked: Callable[[float], float]) -> list[float]:
    """Probability that step k decodes a token that is masked, for each of the K steps."""
    shares = [masked(ar_time(step, num_iter)) for step in range(num_iter + 1)]
    return [1 - after / before for before, after in pairwise(shares[:-1])] + [1.0]


def expected_split(length: int, probabilities: Sequence[float]) -> list[int]:
    """Step sizes that follow the expected number of masked tokens, at least 1 each."""
    sizes: list[int] = []
    expected, masked = float(length), length
    for k, p in enumerate(probabilities[:-1]):
        # One more token is decoded if chance would have decoded none.
        expected = max(0.0, expected - expected * p - (1 - p) ** expected)
        left = len(probabilities) - 1 - k
        size = max(1, min(masked - left, masked - math.floor(expected + 0.5)))
        sizes.append(size)
        masked -= size
    return [*sizes, masked]


def drawn_split(length: int, probabilities: Sequence[float], generator: np.random.Generator) -> list[int]:
    """Random step sizes: max(1, Binomial(m, p_k)) of the m masked tokens, until none is left."""
    sizes: list[int] = []
    masked = length
    for p in [*probabilities[:-1], 1.0]:
        if not masked:
            break
        sizes.append(max(1, int(generator.binomial(masked, p))))
        masked -= sizes[-1]
    return sizes
