"""How many tokens each AR step decodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from mar_accel.errors import ConfigError
from mar_accel.utils.readable import Readable


@dataclass(frozen=True)
class StepSize:
    """Size of one AR step.

    Attributes:
        num_tokens: tokens that the step decodes.
        stage: the stage that its first token belongs to.
        progress: share of tokens that the guidance schedule counts as decoded after the step, (0, 1].
    """

    num_tokens: int
    stage: int
    progress: float


class StepSizes(Readable):
    """Splits the tokens of the stages into AR steps. Step sizes of one's own define ``sizes``."""

    def sizes(self, stage_sizes: Sequence[int]) -> Sequence[int]:
        """Tokens of each AR step, at least 1; they add up to those of the stages."""
        raise NotImplementedError

    def split(self, stage_sizes: Sequence[int]) -> list[StepSize]:
        """The AR steps with their stages and progress; to be defined where these are not the usual ones."""
        return with_stages(self.sizes(stage_sizes), stage_sizes)


class CosineSteps(StepSizes):
    """MAR's cosine schedule over all tokens, whatever their stages.

    Args:
        num_iter: K, in 1..L.
    """

    def __init__(self, num_iter: int | None = 64):
        if num_iter is None:
            raise ConfigError(
                "sampler.num_iter=null leaves cosine step sizes without a number of AR steps; give it."
            )
        self.num_iter = num_iter

    def split(self, stage_sizes: Sequence[int]) -> list[StepSize]:
        length = sum(stage_sizes)
        check_num_iter(self.num_iter, length)
        steps = with_stages(cosine_split(length, self.num_iter), stage_sizes)
        # The published schedule counts one token as masked after the last step too, though it decodes
        # all that is left: guidance ends at 1 + (w − 1)·(L − 1)/L.
        steps[-1] = replace(steps[-1], progress=(length - 1) / length)
        return steps


class StageSteps(StepSizes):
    """GtR's steps: every stage has its own number of AR steps (arXiv:2510.17171).

    A stage of n tokens with an average of r tokens per step has max(1, round(n/r)) steps. An order of a
    single stage is cut as bisection would cut it: half of the tokens in the last stage, half of the rest in
    the one before, ….

    Args:
        rates: r of each stage, at least 1.
        steps: AR steps of each stage; where given they count, and not the rates.
        num_iter: K, where given: the steps of all stages together, shared out in the proportions that rates
            or steps have.
        split: inside a stage "uniform" (sizes differ by at most one) or "cosine" (as MAR over all tokens).
    """

    def __init__(
        self,
        rates: Sequence[float] | None = (2.67, 10.67, 64),
        steps: Sequence[int] | None = None,
        num_iter: int | None = None,
        split: str = "uniform",
    ):
        if split not in ("uniform", "cosine"):
            raise ConfigError(f"sampler.step_sizes.split={split} is unknown; choose uniform or cosine.")
        if not rates and not steps:
            raise ConfigError("sampler.step_sizes.rates is empty; give tokens per AR step for each stage.")
        if not steps and not all(math.isfinite(rate) and rate >= 1 for rate in rates or ()):
            raise ConfigError(
                f"sampler.step_sizes.rates={_listed(rates)} has a value below 1, but a step decodes at least "
                "one token; raise it."
            )
        if steps and not all(number >= 1 and number == int(number) for number in steps):
            raise ConfigError(
                f"sampler.step_sizes.steps={_listed(steps)} leaves a stage without steps; give at least 1 to "
                "each."
            )
        self.rates = list(rates or ())
        self.steps = [int(number) for number in steps or ()]
        self.num_iter = num_iter
        self.split_sizes = {"uniform": uniform_split, "cosine": cosine_split}[split]

    def split(self, stage_sizes: Sequence[int]) -> list[StepSize]:
        given = len(self.steps or self.rates)
        if len(stage_sizes) == 1:
            stage_sizes = halved(stage_sizes[0], given)
        if given != len(stage_sizes):
            key = "steps" if self.steps else "rates"
            raise ConfigError(
                f"sampler.step_sizes.{key} has {given} values for the {len(stage_sizes)} stages of "
                "sampler.order; give one to each stage."
            )
        sizes: list[int] = []
        for size, number in zip(stage_sizes, self._steps_per_stage(stage_sizes), strict=True):
            sizes += self.split_sizes(size, number)
        return with_stages(sizes, stage_sizes)

    def _steps_per_stage(self, stage_sizes: Sequence[int]) -> list[int]:
        for size, number in zip(stage_sizes, self.steps, strict=False):
            if number > size:
                raise ConfigError(
                    f"sampler.step_sizes.steps={_listed(self.steps)} has {number} steps for a stage of "
                    f"{size} tokens, but a step decodes at least one; lower it."
                )
        wanted = [float(number) for number in self.steps] or [
            size / rate for size, rate in zip(stage_sizes, self.rates, strict=True)
        ]
        if self.num_iter is not None:
            return shared_out(self.num_iter, wanted, stage_sizes)
        return [max(1, round(number)) for number in wanted]


def cosine_split(length: int, num_steps: int) -> list[int]:
    """MAR's sizes: after step k, max(1, min(m_{k-1} - 1, floor(L·cos(π/2·(k+1)/K)))) tokens are masked."""
    sizes, masked = [], length
    for k in range(num_steps - 1):
        after = max(1, min(masked - 1, math.floor(length * math.cos(math.pi / 2 * (k + 1) / num_steps))))
        sizes.append(masked - after)
        masked = after
    return [*sizes, masked]


def uniform_split(length: int, num_steps: int) -> list[int]:
    """Sizes of the steps, spread evenly: they differ by at most one."""
    bounds = [length * k // num_steps for k in range(num_steps + 1)]
    return [stop - start for start, stop in pairwise(bounds)]


def halved(length: int, num_stages: int) -> list[int]:
    """Stage sizes of a bisection: the last has half of the tokens, the one before half of the rest, …."""
    if length < 2 ** (num_stages - 1):
        raise ConfigError(
            f"sampler.step_sizes: {length} tokens cannot be halved into {num_stages} stages; give fewer "
            "rates."
        )
    sizes: list[int] = []
    for _ in range(num_stages - 1):
        sizes.insert(0, length // 2)
        length -= length // 2
    return [length, *sizes]


def shared_out(num_iter: int, wanted: Sequence[float], stage_sizes: Sequence[int]) -> list[int]:
    """K steps over the stages in proportion to ``wanted`` (Sainte-Laguë), 1 to |S| for each stage."""
    if not len(stage_sizes) <= num_iter <= sum(stage_sizes):
        raise ConfigError(
            f"sampler.num_iter={num_iter} AR steps do not fit {len(stage_sizes)} stages of together "
            f"{sum(stage_sizes)} tokens; choose {len(stage_sizes)} to {sum(stage_sizes)}."
        )
    steps = [1] * len(stage_sizes)
    for _ in range(num_iter - len(steps)):
        open_stages = [stage for stage, size in enumerate(stage_sizes) if steps[stage] < size]
        steps[max(open_stages, key=lambda stage: wanted[stage] / (steps[stage] + 0.5))] += 1
    return steps


def check_num_iter(num_iter: int, length: int) -> None:
    """Refuse a number of AR steps outside 1..L."""
    if not 1 <= num_iter <= length:
        raise ConfigError(
            f"sampler.num_iter={num_iter} AR steps cannot decode {length} tokens, at least one each; "
            f"choose 1 to {length}."
        )


def with_stages(sizes: Sequence[int], stage_sizes: Sequence[int]) -> list[StepSize]:
    """Attach to each step the stage that its first token falls into, and the share decoded after it."""
    ends, length = list(accumulate(stage_sizes)), sum(stage_sizes)
    steps, start = [], 0
    for size in sizes:
        stage = sum(end <= start for end in ends[:-1])
        start += size
        steps.append(StepSize(size, stage, start / length))
    return steps


def _listed(values: Sequence[float] | None) -> str:
    return "[" + ", ".join(str(value) for value in values or ()) + "]"
