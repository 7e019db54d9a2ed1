"""Fit a cache to a wanted speedup: ``python -m mar_accel.calibrate cache=lazymar calibrate.speedup=3``."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

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
from mar_accel.data.requests import GenerationRequests
from mar_accel.errors import ConfigError
from mar_accel.generate import build_module, build_requests, check_device
from mar_accel.inference.build import build_cache
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.progress import ImageProgress
from mar_accel.inference.trainer import build_trainer, on_one_device
from mar_accel.profiling.flops import count_flops
from mar_accel.runs.entry import command
from mar_accel.runs.record import prepare_output_dir, run_record, write_json
from mar_accel.sampling.policy import CachePolicy, NoCache
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.progress import busy


@dataclass(frozen=True)
class CalibrationResult:
    """A calibrated cache.

    Attributes:
        schedule: refreshes and ratios.
        speedup: in counted FLOPs, over no cache under the same sampler.
        overrides: what turns the cache of the config into the calibrated one.
    """

    schedule: Schedule
    speedup: float
    overrides: tuple[str, ...]


def calibrate(config: DictConfig) -> CalibrationResult:
    """Sample a few images without a cache, and fit refreshes and ratios to what moves.

    Args:
        config: composed as ``conf/calibrate.yaml``.

    Raises:
        ConfigError: the config cannot be run, or the speedup not be reached; nothing has been written then.
    """
    _check_settings(config)
    check_device(config.trainer.accelerator)
    requests, module = build_requests(config), build_module(config)
    if not isinstance(module.cache, LazyMAR) or module.cache.token is None:
        raise ConfigError(
            "cache holds no token cache, whose ratios are fitted; choose cache=lazymar or token."
        )
    settings = config.calibrate

    def fitted(distances: Tensor, tolerance: float) -> Schedule:
        return schedule_of(distances, tolerance, settings.drift_factor, settings.warmup_steps)

    with busy("counting FLOPs"):
        speedup = _Speedup(config, module)
        # What nothing exceeds, before anything is sampled for it.
        still = fitted(torch.zeros(len(module.plan.steps), 1, 1), LARGEST_TOLERANCE)
        check_reached(speedup(still), settings.speedup)
    distances = _distances(config, module, module.cache.token, requests)
    with busy("counting FLOPs"):
        schedule, reached = least_tolerance(partial(fitted, distances), speedup, settings.speedup)
    result = CalibrationResult(schedule, reached, _overrides(schedule, len(distances)))
    _write(config, result, distances)
    return result


def _check_settings(config: DictConfig) -> None:
    settings = config.calibrate
    if settings.speedup <= 1:
        raise ConfigError(f"calibrate.speedup={settings.speedup} is no speedup; ask for more than 1.")
    if settings.drift_factor <= 0:
        raise ConfigError(
            f"calibrate.drift_factor={settings.drift_factor} allows no drift; give more than 0."
        )
    if not isinstance(settings.warmup_steps, int) or settings.warmup_steps < 0:
        raise ConfigError(
            f"calibrate.warmup_steps={settings.warmup_steps} is no number of AR steps; give 0 or more."
        )


class _Speedup:
    """How many times fewer FLOPs a schedule takes than no cache; each schedule is counted once."""

    def __init__(self, config: DictConfig, module: InferenceModule):
        self.config, self.module = config, module
        self._counted: dict[object, int] = {}
        self._plain = self._count(NoCache())

    def __call__(self, schedule: Schedule) -> float:
        key = schedule.refreshes, schedule.ratios
        if key not in self._counted:
            self._counted[key] = self._count(build_cache(_with_schedule(self.config, schedule)))
        return self._plain / self._counted[key]

    def _count(self, policy: CachePolicy) -> int:
        return count_flops(self.module.model.config, self.module.sampler, policy).total


def _distances(
    config: DictConfig, module: InferenceModule, token: TokenCache, requests: GenerationRequests
) -> Tensor:
    module.cache = recorder = MovementRecorder(token)
    trainer = build_trainer(on_one_device(config), [ImageProgress()], Path(config.output_dir).absolute())
    trainer.predict(module, requests, return_predictions=False)
    return recorder.distances()


def _overrides(schedule: Schedule, num_steps: int) -> tuple[str, ...]:
    ratios = ",".join(f"[{first},{ratio}]" for first, ratio in schedule.ratios)
    return (
        "cache/refresh=listed",
        f"cache.refresh.steps=[{','.join(map(str, schedule.refreshes))}]",
        f"cache.token.ratios=[{ratios}]",
        f"cache.token.ratio_steps={num_steps}",
        "cache.token.ratio_by=step",
    )


def _with_schedule(config: DictConfig, schedule: Schedule) -> DictConfig:
    """The config with a calibrated cache."""
    changed = copy.deepcopy(config)
    OmegaConf.set_struct(changed, False)
    changed.cache.refresh = {
        "_target_": "mar_accel.caching.refresh.ListedRefresh",
        "steps": list(schedule.refreshes),
    }
    changed.cache.token.ratios = [list(row) for row in schedule.ratios]
    changed.cache.token.ratio_by = "step"
    return changed


def _write(config: DictConfig, result: CalibrationResult, distances: Tensor) -> None:
    output_dir = prepare_output_dir(Path(config.output_dir).absolute())
    schedule, mean = result.schedule, distances.mean(dim=(1, 2)).tolist()
    ratios = dict(schedule.ratios)
    rows, ratio = [], 1.0
    for k, distance in enumerate(mean):
        ratio = ratios.get(k, ratio)
        rows.append(
            {"step": k, "refresh": k in schedule.refreshes, "ratio": ratio, "mean_distance": distance}
        )
    write_csv(rows, output_dir / "calibration.csv")
    OmegaConf.save(_with_schedule(config, schedule).cache, output_dir / "cache.yaml", resolve=True)
    (output_dir / "overrides.txt").write_text("\n".join(result.overrides) + "\n")
    record = run_record(
        config,
        speedup=result.speedup,
        tolerance=schedule.tolerance,
        adaptive_threshold=schedule.drift,
        overrides_of_cache=list(result.overrides),
    )
    write_json(record, output_dir / "run.json")


@command("calibrate")
def main(config: DictConfig) -> None:
    result = calibrate(config)
    console = Console(soft_wrap=True)
    console.print(
        f"{result.speedup:.2f} times fewer FLOPs with {len(result.schedule.refreshes)} refreshes; "
        f"a threshold of cache/refresh=adaptive alike: {result.schedule.drift:.4g}"
    )
    console.print(" ".join(f"'{override}'" for override in result.overrides), markup=False, highlight=False)
    console.print(f"Everything: {config.output_dir}", markup=False)


if __name__ == "__main__":
    main()
