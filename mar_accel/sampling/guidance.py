"""Guidance: which branches an AR step runs, how they are combined, and the schedules that decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.models.diffusion import NUM_TRAIN_TIMESTEPS
from mar_accel.utils.readable import Readable

LAST_TIMESTEP = NUM_TRAIN_TIMESTEPS - 1


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of one AR step: ε = ε_u + w·(ε_c − ε_u).

    Attributes:
        scale: w, at least 0. With w = 1 the step runs the conditional branch alone.
        timesteps: first and last timestep of the head (0..999) at which it runs both branches.
            At the others w is 1.
    """

    scale: float = 1.0
    timesteps: tuple[int, int] = (0, LAST_TIMESTEP)

    @property
    def guided(self) -> bool:
        """Whether the step runs the unconditional branch at all."""
        return self.scale != 1

    def covers(self, timestep: int) -> bool:
        """Whether the head runs both branches at a timestep."""
        return self.guided and self.timesteps[0] <= timestep <= self.timesteps[1]

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """ε of the predictions ε_c and ε_u, of any shape."""
        return torch.lerp(unconditional, conditional, self.scale)

    def extrapolate(self, conditional: Tensor, difference: Tensor) -> Tensor:
        """The same ε of ε_c and a kept difference ε_c − ε_u: ε_c + (w − 1)·(ε_c − ε_u)."""
        return torch.add(conditional, difference, alpha=self.scale - 1)


@dataclass(frozen=True)
class Progress:
    """Where an AR step is in a decode.

    Attributes:
        index: k, counted from 0.
        num_steps: K.
        decoded: share of tokens that count as decoded after the step, in (0, 1].
    """

    index: int
    num_steps: int
    decoded: float

    @property
    def ar_time(self) -> float:
        """s = t_{k+1} of t_j = linspace(1, 1e-5, K + 1): the time after the step (eMIGM)."""
        return 1 - (self.index + 1) / self.num_steps * (1 - 1e-5)


class GuidanceSchedule(Readable):
    """Decides the guidance of each AR step. A schedule of one's own defines ``scale``."""

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        """w of an AR step; 1 runs the conditional branch alone.

        Args:
            guidance_scale: w of the sampler.
            progress: where the step is.
        """
        raise NotImplementedError

    def at(self, guidance_scale: float, progress: Progress) -> Guidance:
        """All of a step's guidance; to be defined where it is more than a scale."""
        return Guidance(self.scale(guidance_scale, progress))


class LinearGuidance(GuidanceSchedule):
    """w_k = 1 + (w − 1)·(L − m_k)/L: no guidance at first, all of it at the end (MAR)."""

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        return 1 + (guidance_scale - 1) * progress.decoded


class ConstantGuidance(GuidanceSchedule):
    """The same w at every step."""

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        return guidance_scale


class IntervalGuidance(GuidanceSchedule):
    """Guides inside an interval alone (arXiv:2404.07724); outside it the conditional branch runs alone.

    Args:
        over: what the interval is a range of.
            "decoded": share of tokens decoded after the AR step; guided where low < share <= high.
            "ar_time": time s after the AR step, from 1 down to 0 (eMIGM); guided where low < s <= high.
            "timestep": timestep of the head, 999 down to 0; guided where low <= t <= high. Every AR step
            then computes both branches of z, and the head runs the second one inside the range.
        low, high: the range, in 0..1, or in 0..999 over "timestep".
        schedule: w inside the interval: "linear", "constant", or a schedule.

    Example:
        IntervalGuidance("ar_time", 0.1, 0.3, "constant")  # eMIGM at K = 16
    """

    def __init__(
        self,
        over: Literal["decoded", "ar_time", "timestep"] = "decoded",
        low: float = 0.5,
        high: float = 1.0,
        schedule: Literal["linear", "constant"] | GuidanceSchedule = "linear",
    ):
        key = "sampler.guidance_schedule"
        if over not in ("decoded", "ar_time", "timestep"):
            raise ConfigError(f"{key}.over={over} is unknown; choose decoded, ar_time or timestep.")
        if isinstance(schedule, str) and schedule not in SCHEDULES:
            raise ConfigError(f"{key}.schedule={schedule} is unknown; choose linear or constant.")
        if over == "timestep":
            if not (0 <= low <= high <= LAST_TIMESTEP and low == int(low) and high == int(high)):
                raise ConfigError(
                    f"{key}.low={low} and high={high} are no range of timesteps; choose integers with "
                    f"0 <= low <= high <= {LAST_TIMESTEP}."
                )
        elif not 0 <= low < high <= 1:
            raise ConfigError(
                f"{key}.low={low} and high={high} are no range over {over}; choose 0 <= low < high <= 1."
            )
        self.over = over
        self.low = low
        self.high = high
        self.schedule = SCHEDULES[schedule]() if isinstance(schedule, str) else schedule

    def at(self, guidance_scale: float, progress: Progress) -> Guidance:
        scale = self.schedule.scale(guidance_scale, progress)
        if self.over == "timestep":
            return Guidance(scale, (int(self.low), int(self.high)))
        place = progress.decoded if self.over == "decoded" else progress.ar_time
        return Guidance(scale if self.low < place <= self.high else 1.0)


SCHEDULES: dict[str, type[GuidanceSchedule]] = {"linear": LinearGuidance, "constant": ConstantGuidance}
