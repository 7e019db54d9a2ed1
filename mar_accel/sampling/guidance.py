"""Classifier-free guidance: the branches of an AR step, their combination, and schedules of the scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.models.diffusion import NUM_TRAIN_TIMESTEPS
from mar_accel.sampling.model_defaults import MODEL, FromModel, ModelDefaults
from mar_accel.sampling.parts import check_part, not_defined
from mar_accel.sampling.rate_steps import ar_time

LAST_TIMESTEP = NUM_TRAIN_TIMESTEPS - 1


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of one AR step: ε = ε_u + w·(ε_c − ε_u).

    Attributes:
        scale: w ≥ 0. With w = 1 the step runs the conditional branch only.
        timesteps: range of head timesteps (0..999, inclusive) that run both branches. Outside it, w = 1.

    Example:
        >>> Guidance(3.0).guided, Guidance(1.0).guided
        (True, False)
    """

    scale: float = 1.0
    timesteps: tuple[int, int] = (0, LAST_TIMESTEP)

    @property
    def guided(self) -> bool:
        """Whether the step runs the unconditional branch."""
        return self.scale != 1

    def covers(self, timestep: float) -> bool:
        """Whether the head runs both branches at a timestep."""
        return self.guided and self.timesteps[0] <= timestep <= self.timesteps[1]

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """Combine the predictions ε_c and ε_u (any shape) into ε."""
        return torch.lerp(unconditional, conditional, self.scale)

    def extrapolate(self, conditional: Tensor, difference: Tensor) -> Tensor:
        """The same ε from ε_c and a cached difference ε_c − ε_u: ε_c + (w − 1)·(ε_c − ε_u)."""
        return torch.add(conditional, difference, alpha=self.scale - 1)


@dataclass(frozen=True)
class Progress:
    """Position of an AR step in the decode loop.

    Attributes:
        index: step index k, from 0.
        num_steps: number of AR steps K of the schedule.
        decoded: share of tokens that count as decoded after the step, in (0, 1].
    """

    index: int
    num_steps: int
    decoded: float

    @property
    def ar_time(self) -> float:
        """Time s after the step (eMIGM), from 1 down to 1e-5; see :func:`rate_steps.ar_time`."""
        return ar_time(self.index + 1, self.num_steps)


class GuidanceSchedule(ModelDefaults):
    """Sets the guidance of each AR step. A custom schedule defines ``scale``.

    Example:
        class SecondHalf(GuidanceSchedule):
            def scale(self, guidance_scale, progress):
                return guidance_scale if progress.decoded > 0.5 else 1.0
    """

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        """Guidance scale w of an AR step, at least 0. 1 runs the conditional branch only.

        Args:
            guidance_scale: w of the sampler.
            progress: position of the step.
        """
        raise not_defined("sampler.guidance_schedule", self, "scale")

    def at(self, guidance_scale: float, progress: Progress) -> Guidance:
        """Guidance of an AR step. Override this if the schedule sets more than a scale."""
        return Guidance(self.scale(guidance_scale, progress))


class LinearGuidance(GuidanceSchedule):
    """MAR's linear schedule: w_k = 1 + (w − 1)·(L − m_k)/L, with m_k tokens masked after step k."""

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        return 1 + (guidance_scale - 1) * progress.decoded


class ConstantGuidance(GuidanceSchedule):
    """The same w at every step."""

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        return guidance_scale


class ModelGuidance(GuidanceSchedule):
    """The schedule that the model was published with: MAR has the linear one, LightGen the constant one.

    Args:
        schedule: "linear" or "constant". "model": value of the model, or linear if it has none.

    Raises:
        ConfigError: there is no such schedule.

    Example:
        >>> ModelGuidance().for_model({"guidance_schedule": "constant"}).scale(3.0, Progress(0, 32, 0.01))
        3.0
    """

    model_defaults: ClassVar = {"schedule": ("guidance_schedule", "linear")}

    def __init__(self, schedule: Literal["linear", "constant"] | FromModel = MODEL):
        self.schedule = schedule
        self.check_settings()

    def check_settings(self) -> None:
        if self.schedule not in (*SCHEDULES, MODEL):
            raise ConfigError(
                f"sampler.guidance_schedule.schedule must be linear, constant or model, got {self.schedule}."
            )

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        return SCHEDULES[self.setting("schedule")].scale(guidance_scale, progress)


class IntervalGuidance(GuidanceSchedule):
    """Guidance inside an interval (arXiv:2404.07724). Outside it, only the conditional branch runs.

    Args:
        over: quantity that the interval refers to.
            "decoded": share of tokens decoded after the AR step; guided if low < share ≤ high.
            "ar_time": time s after the AR step, from 1 down to 0 (eMIGM); guided if low < s ≤ high.
            "timestep": timestep of the head, 999 down to 0; guided if low ≤ t ≤ high.
            With "timestep", every AR step computes both branches of z.
            The head runs the unconditional branch only inside the range.
        low, high: bounds of the interval, in 0..1; for "timestep", integers in 0..999.
        schedule: scale inside the interval: "linear", "constant", "model" (that of the model), or a schedule
            object.

    Example:
        IntervalGuidance("ar_time", 0.1, 0.3, "constant")  # eMIGM at K = 16
    """

    model_defaults: ClassVar = ModelGuidance.model_defaults

    def __init__(
        self,
        over: Literal["decoded", "ar_time", "timestep"] = "decoded",
        low: float = 0.5,
        high: float = 1.0,
        schedule: Literal["linear", "constant"] | FromModel | GuidanceSchedule = MODEL,
    ):
        key = "sampler.guidance_schedule"
        if over not in ("decoded", "ar_time", "timestep"):
            raise ConfigError(f"{key}.over must be decoded, ar_time or timestep, got {over}.")
        if over == "timestep":
            if not (0 <= low <= high <= LAST_TIMESTEP and low == int(low) and high == int(high)):
                raise ConfigError(
                    f"{key}.low and high must be integers with 0 ≤ low ≤ high ≤ {LAST_TIMESTEP} over "
                    f"timestep, got low={low} and high={high}."
                )
        elif not 0 <= low < high <= 1:
            raise ConfigError(
                f"{key}.low and high must be numbers with 0 ≤ low < high ≤ 1 over {over}, got low={low} and "
                f"high={high}."
            )
        self.over = over
        self.low = low
        self.high = high
        self.schedule = schedule
        self.check_settings()

    def check_settings(self) -> None:
        check_part("sampler.guidance_schedule.schedule", self._inside(), GuidanceSchedule)

    def _inside(self) -> GuidanceSchedule:
        """The schedule that sets the scale inside the interval."""
        return ModelGuidance(self.schedule) if isinstance(self.schedule, str) else self.schedule

    def at(self, guidance_scale: float, progress: Progress) -> Guidance:
        scale = self._inside().scale(guidance_scale, progress)
        if self.over == "timestep":
            return Guidance(scale, (int(self.low), int(self.high)))
        place = progress.decoded if self.over == "decoded" else progress.ar_time
        return Guidance(scale if self.low < place <= self.high else 1.0)


SCHEDULES: dict[str, GuidanceSchedule] = {"linear": LinearGuidance(), "constant": ConstantGuidance()}
