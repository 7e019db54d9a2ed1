"""How many tokens each AR step decodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mar_accel.errors import ConfigError


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


class StepSizes:
    """Splits the tokens of the stages into AR steps."""

    def split(self, stage_sizes: Sequence[int]) -> list[StepSize]:
        """AR steps in turn; their tokens add up to those of the stages."""
        raise NotImplementedError


class CosineSteps(StepSizes):
    """MAR's cosine schedule: after step k, max(1, min(m_{k-1} - 1, floor(L·cos(π/2·(k+1)/K)))) are masked.

    Args:
        num_iter: K, in 1..L.
    """

    def __init__(self, num_iter: int):
        self.num_iter = num_iter

    def split(self, stage_sizes: Sequence[int]) -> list[StepSize]:
        length, num_iter = sum(stage_sizes), self.num_iter
        check_num_iter(num_iter, length)
        sizes, masked = [], length
        for k in range(num_iter - 1):
            after = max(1, min(masked - 1, math.floor(length * math.cos(math.pi / 2 * (k + 1) / num_iter))))
            sizes.append(masked - after)
            masked = after
        steps = with_stages([*sizes, masked], stage_sizes)
        # The published schedule counts one token as masked after the last step too, though it decodes
        # all that is left: guidance ends at 1 + (w − 1)·(L − 1)/L.
        steps[-1] = replace(steps[-1], progress=(length - 1) / length)
        return steps


def check_num_iter(num_iter: int, length: int) -> None:
    """Refuse a number of AR steps outside 1..L."""
    if not 1 <= num_iter <= length:
        raise ConfigError(
            f"sampler.num_iter={num_iter} AR steps cannot decode {length} tokens, at least one each; "
            f"choose 1 to {length}."
        )


def with_stages(sizes: Sequence[int], stage_sizes: Sequence[int]) -> list[StepSize]:
    """Attach to each step the stage that its first token falls into."""
    steps, start, stage, boundary = [], 0, 0, stage_sizes[0]
    for size in sizes:
        while start >= boundary:
            stage += 1
            boundary += stage_sizes[stage]
        start += size
        steps.append(StepSize(size, stage, start / sum(stage_sizes)))
    return steps
