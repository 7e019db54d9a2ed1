"""Number of tokens that each AR step decodes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from mar_accel.errors import ConfigError
from mar_accel.sampling.orders import halved
from mar_accel.sampling.parts import counts_of, not_defined
from mar_accel.utils.readable import Readable


@dataclass(frozen=True)
class StepSize:
    """Size of one AR step.

    Attributes:
        num_tokens: number of tokens that the step decodes, at least 1.
        stage: stage of its first token, from 0.
        progress: share of decoded tokens after the step for the guidance schedule, in (0, 1].
        num_iter: number of AR steps K of the schedule that the step belongs to. None: as many as there are.
        num_stages: number of stages, of which the last may have no tokens. None: the last step is in it.
    """

    num_tokens: int
    stage: int
    progress: float
    num_iter: int | None = None
    num_stages: int | None = None


def last_stage(steps: Sequence[StepSize]) -> int:
    """Index of the last stage (reconstruction, with several stages)."""
    number = steps[-1].num_stages
    return steps[-1].stage if number is None else number - 1


class StepSizes(Readable):
    """Splits the tokens of the stages into AR steps. A custom class defines ``sizes``.

    Example:
        class Pairs(StepSizes):
            def sizes(self, stage_sizes):
                return [2] * (sum(stage_sizes) // 2)
    """

    def sizes(self, stage_sizes: Sequence[int]) -> Sequence[int]:
        """Number of tokens of each AR step, at least 1. The sum must equal that of the stages."""
        raise not_defined("sampler.step_sizes", self, "sizes")

    def split(self, stage_sizes: Sequence[int]) -> list[StepSize]:
        """AR steps with stage and progress. Override this to set stage or progress differently."""
        sizes = counts_of("sampler.step_sizes", self, "sizes", self.sizes(stage_sizes), "AR step")
        return with_stages(sizes, stage_sizes)

    def for_few(self, num_tokens: int) -> StepSizes:
        """These step sizes for few unknown tokens (inpainting), with at most one AR step per token.

        Override this if a class limits its number of steps in another way than by ``num_iter``.
        """
        num_iter = getattr(self, "num_iter", None)
        if not isinstance(num_iter, int) or num_iter <= num_tokens:
            return self
        fewer = copy.copy(self)
        fewer.num_iter = num_tokens  # type: ignore[attr-defined]
        return fewer

    def for_seed(self, seed: int) -> StepSizes:
        """These step sizes in a run with a seed. Override this if the sizes are random."""
        return self


class CosineSteps(StepSizes):
    """MAR's cosine schedule over all tokens. It ignores the stages.

    Args:
        num_iter: number of AR steps K, in 1..L.
    """

    def __init__(self, num_iter: int | None = 64):
        if num_iter is None:
            raise ConfigError("sampler.num_iter must be an integer with cosine step sizes, got null; set it.")
        self.num_iter = num_iter

    def split(self, stage_sizes: Sequence[int]) -> list[StepSize]:
        length = sum(stage_sizes)
        check_num_iter(self.num_iter, length)
        steps = with_stages(cosine_split(length, self.num_iter), stage_sizes)
        # The published schedule counts one token as masked even after the last step, which decodes all
        # remaining tokens. Guidance therefore ends at 1 + (w − 1)·(L − 1)/L.
        steps[-1] = replace(steps[-1], progress=(length - 1) / length)
        return steps


class StageSteps(StepSizes):
    """GtR's step sizes (arXiv:2510.17171): each stage has its own number of AR steps.

    A stage of n tokens with rate r (average tokens per step) has max(1, round(n/r)) steps. An order with
    one stage is divided by bisection. The last stage gets half of the tokens, the stage before it half of
    the rest, and so on.

    Args:
        rates: rate r of each stage, at least 1.
        steps: AR steps of each stage, at least 1. If given, it replaces ``rates``.
        num_iter: total number of AR steps K. If given, the stages share it in proportion to their steps.
        split: split inside a stage: "uniform" (sizes differ by at most 1) or "cosine" (MAR's schedule).
    """

    def __init__(
        self,
        rates: Sequence[float] | None = (2.67, 10.67, 64),
        steps: Sequence[int] | None = None,
        num_iter: int | None = None,
        split: str = "uniform",
    ):
        if split not in ("uniform", "cosine"):
            raise ConfigError(f"sampler.step_sizes.split must be uniform or cosine, got {split}.")
        if not rates and not steps:
            raise ConfigError("sampler.step_sizes.rates is empty; set the tokens per AR step of each stage.")
        if not steps and not all(math.isfinite(rate) and rate >= 1 for rate in rates or ()):
            raise ConfigError(
                "sampler.step_sizes.rates must be finite numbers ≥ 1 (tokens per AR step), "
                f"got {_listed(rates)}."
            )
        if steps and not all(number >= 1 and number == int(number) for number in steps):
            raise ConfigError(
                f"sampler.step_sizes.steps must be integers ≥ 1 (AR steps per stage), got {_listed(steps)}."
            )
        self.rates = list(rates or ())
        self.steps = [int(number) for number in steps or ()]
        self.num_iter = num_iter
        self._few = False
        self.split_sizes = {"uniform": uniform_split, "cosine": cosine_split}[split]

    def split(self, stage_sizes: Sequence[int]) -> list[StepSize]:
        given = len(self.steps or self.rates)
        if len(stage_sizes) == 1:
            # Few unknown tokens have fewer halves; the first stages are then empty.
            number = min(given, stage_sizes[0].bit_length()) if self._few else given
            stage_sizes = [0] * (given - number) + halved(stage_sizes[0], number)
        if given != len(stage_sizes):
            key = "steps" if self.steps else "rates"
            raise ConfigError(
                f"sampler.step_sizes.{key} must have one value for each of the {len(stage_sizes)} stages "
                f"of sampler.order, got {given}."
            )
        sizes: list[int] = []
        for size, number in zip(stage_sizes, self._steps_per_stage(stage_sizes), strict=True):
            sizes += self.split_sizes(size, number) if size else []
        return with_stages(sizes, stage_sizes)

    def for_few(self, num_tokens: int) -> StepSizes:
        few = copy.copy(self)
        few._few = True
        return few

    def _steps_per_stage(self, stage_sizes: Sequence[int]) -> list[int]:
        """Number of AR steps of each stage; 0 for a stage without tokens."""
        if not self._few:
            return self._wanted_steps(stage_sizes)
        there = [stage for stage, size in enumerate(stage_sizes) if size]
        part = copy.copy(self)
        part.rates = [self.rates[stage] for stage in there] if not self.steps else []
        part.steps = [min(self.steps[s], stage_sizes[s]) for s in there] if self.steps else []
        if self.num_iter is not None:
            part.num_iter = min(max(self.num_iter, len(there)), sum(stage_sizes))
        steps = dict(zip(there, part._wanted_steps([stage_sizes[stage] for stage in there]), strict=True))
        return [steps.get(stage, 0) for stage in range(len(stage_sizes))]

    def _wanted_steps(self, stage_sizes: Sequence[int]) -> list[int]:
        for size, number in zip(stage_sizes, self.steps, strict=False):
            if number > size:
                raise ConfigError(
                    f"sampler.step_sizes.steps must be ≤ {size} for a stage of {size} tokens, got {number} "
                    f"in {_listed(self.steps)}."
                )
        wanted = [float(number) for number in self.steps] or [
            size / rate for size, rate in zip(stage_sizes, self.rates, strict=True)
        ]
        if self.num_iter is not None:
            return shared_out(self.num_iter, wanted, stage_sizes)
        return [max(1, round(number)) for number in wanted]


def cosine_split(length: int, num_steps: int) -> list[int]:
    """MAR's step sizes.

    After step k, m_k = max(1, min(m_{k-1} - 1, floor(L·cos(π/2·(k+1)/K)))) tokens are masked. The last
    step decodes the rest.

    Example:
        >>> cosine_split(16, 4)
        [2, 3, 5, 6]
    """
    sizes, masked = [], length
    for k in range(num_steps - 1):
        after = max(1, min(masked - 1, math.floor(length * math.cos(math.pi / 2 * (k + 1) / num_steps))))
        sizes.append(masked - after)
        masked = after
    return [*sizes, masked]


def uniform_split(length: int, num_steps: int) -> list[int]:
    """Step sizes that differ by at most one."""
    bounds = [length * k // num_steps for k in range(num_steps + 1)]
    return [stop - start for start, stop in pairwise(bounds)]


def shared_out(num_iter: int, wanted: Sequence[float], stage_sizes: Sequence[int]) -> list[int]:
    """Distribute K steps over the stages in proportion to ``wanted`` (Sainte-Laguë method).

    Each stage gets at least 1 step and at most as many as it has tokens.
    """
    if not len(stage_sizes) <= num_iter <= sum(stage_sizes):
        raise ConfigError(
            f"sampler.num_iter must be between {len(stage_sizes)} and {sum(stage_sizes)} for "
            f"{len(stage_sizes)} stages and {sum(stage_sizes)} tokens, got {num_iter}."
        )
    steps = [1] * len(stage_sizes)
    for _ in range(num_iter - len(steps)):
        open_stages = [stage for stage, size in enumerate(stage_sizes) if steps[stage] < size]
        steps[max(open_stages, key=lambda stage: wanted[stage] / (steps[stage] + 0.5))] += 1
    return steps


def check_num_iter(num_iter: int, length: int) -> None:
    """Reject a number of AR steps outside 1..L."""
    if not 1 <= num_iter <= length:
        raise ConfigError(
            f"sampler.num_iter must be between 1 and {length} (each AR step decodes at least one token), "
            f"got {num_iter}."
        )


def with_stages(sizes: Sequence[int], stage_sizes: Sequence[int]) -> list[StepSize]:
    """Add to each step the stage of its first token and the share of tokens decoded after it."""
    ends, length = list(accumulate(stage_sizes)), sum(stage_sizes)
    steps, start = [], 0
    for size in sizes:
        stage = sum(end <= start for end in ends[:-1])
        start += size
        steps.append(StepSize(size, stage, start / length, num_stages=len(stage_sizes)))
    return steps


def _listed(values: Sequence[float] | None) -> str:
    return "[" + ", ".join(str(value) for value in values or ()) + "]"
