"""A run of calibrate: sample a few images without a cache, and fit a cache to a target ratio of FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mar_accel.analysis.calibrated_cache import counted_with, write_calibration
from mar_accel.analysis.recorded_sampling import sample_recorded
from mar_accel.caching.calibration import (
    LARGEST_TOLERANCE,
    MovementRecorder,
    Schedule,
    check_reached,
    least_tolerance,
    schedule_of,
)
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.token import TokenCache
from mar_accel.config.settings import Node, Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_sampling
from mar_accel.inference.session import Session, check_device
from mar_accel.inference.trainer import build_trainer, on_one_device
from mar_accel.runs.output_dir import require_folder
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.progress import busy


@dataclass(frozen=True)
class CalibrationResult:
    """A calibrated cache.

    Attributes:
        schedule: refreshes and ratios.
        flops_ratio: counted FLOPs without a cache divided by those with it, for the same sampler.
        overrides: overrides that turn the cache of the config into the calibrated one.
    """

    schedule: Schedule
    flops_ratio: float
    overrides: tuple[str, ...]


def calibrate(settings: Settings) -> CalibrationResult:
    """Sample a few images without a cache, and fit refreshes and ratios to the movement of the features.

    Raises:
        ConfigError: the config cannot be run, or the ratio cannot be reached.
            Nothing is written in this case.
    """
    check_device(settings.trainer.accelerator)
    _, _, cache, _ = build_sampling(settings)
    token = cache.token if isinstance(cache, LazyMAR) else None
    if token is None:
        raise ConfigError(
            "cache has no token cache, so there are no ratios to fit; use cache=lazymar or cache=token."
        )
    output_dir = Path(settings.output_dir).absolute()
    require_folder(output_dir)
    build_trainer(on_one_device(settings.trainer), [], output_dir)
    session, wanted = Session.from_settings(settings), settings.calibrate
    session.check_batch(min(settings.trainer.batch_size, settings.dataset.num_images))
    session.plans.require_one(settings.dataset.num_images, "calibrate")

    def fitted(distances: Tensor, tolerance: float) -> Schedule:
        return schedule_of(distances, tolerance, wanted.drift_factor, wanted.warmup_steps)

    with busy("counting FLOPs"):
        flops_ratio = _FlopsRatio(settings.cache, session)
        # The ratio for features that do not move is the upper limit. It is checked before sampling.
        still = fitted(torch.zeros(len(session.plan.steps), 1, 1, dtype=torch.float32), LARGEST_TOLERANCE)
        check_reached(flops_ratio(still), wanted.flops_ratio)
    distances = _distances(settings, session, token)
    with busy("counting FLOPs"):
        schedule, reached = least_tolerance(partial(fitted, distances), flops_ratio, wanted.flops_ratio)
    result = CalibrationResult(schedule, reached, _overrides(schedule, len(distances)))
    _write(settings, result, distances)
    return result


class _FlopsRatio:
    """FLOPs without a cache divided by the FLOPs of a schedule; each schedule is counted once."""

    def __init__(self, cache: Node, session: Session):
        self.cache, self.session = cache, session
        self._counted: dict[object, int] = {}
        self._plain = counted_with(session, None)

    def __call__(self, schedule: Schedule) -> float:
        key = schedule.refreshes, schedule.ratios
        if key not in self._counted:
            cache = _with_schedule(self.cache, schedule, len(self.session.plan.steps))
            self._counted[key] = counted_with(self.session, cache)
        return self._plain / self._counted[key]


def _distances(settings: Settings, session: Session, token: TokenCache) -> Tensor:
    recorder = MovementRecorder(token)
    sample_recorded(settings, session, recorder)
    return recorder.distances()


def _overrides(schedule: Schedule, num_steps: int) -> tuple[str, ...]:
    ratios = ",".join(f"[{first},{ratio}]" for first, ratio in schedule.ratios)
    return (
        "cache/refresh=listed",
        f"cache.refresh.steps=[{','.join(map(str, schedule.refreshes))}]",
        f"cache.refresh.num_steps={num_steps}",
        f"cache.token.ratios=[{ratios}]",
        f"cache.token.ratio_steps={num_steps}",
        "cache.token.ratio_by=step",
    )


def _with_schedule(cache: Node, schedule: Schedule, num_steps: int) -> Node:
    """The config node of the calibrated cache."""
    target = "mar_accel.caching.refresh.ListedRefresh"
    ratios = [list(row) for row in schedule.ratios]
    return {
        **cache,
        "refresh": {"_target_": target, "steps": list(schedule.refreshes), "num_steps": num_steps},
        "token": {**cache["token"], "ratios": ratios, "ratio_by": "step"},
    }


def _write(settings: Settings, result: CalibrationResult, distances: Tensor) -> None:
    schedule, mean = result.schedule, distances.mean(dim=(1, 2)).tolist()
    ratios = dict(schedule.ratios)
    rows, ratio = [], 1.0
    for k, distance in enumerate(mean):
        ratio = ratios.get(k, ratio)
        rows.append(
            {"step": k, "refresh": k in schedule.refreshes, "ratio": ratio, "mean_distance": distance}
        )
    output_dir = write_calibration(
        settings,
        _with_schedule(settings.cache, schedule, len(distances)),
        result.overrides,
        result.flops_ratio,
        tolerance=schedule.tolerance,
        adaptive_threshold=schedule.drift,
    )
    write_csv(rows, output_dir / "calibration.csv")
