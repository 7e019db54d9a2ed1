"""A run of calibrate for the first-block cache of the head: a threshold becomes a list of refreshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mar_accel.analysis.calibrated_cache import counted_with, write_calibration
from mar_accel.analysis.recorded_sampling import sample_recorded
from mar_accel.caching.first_block_calibration import FirstBlockMovement, refresh_timesteps
from mar_accel.caching.head_forecast import FirstBlockHeadCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.session import Session, check_device
from mar_accel.runs.output_dir import require_folder
from mar_accel.sampling.policy import NoCache
from mar_accel.utils.progress import busy


@dataclass(frozen=True)
class HeadCalibrationResult:
    """A calibrated first-block cache.

    Attributes:
        timesteps: indices of the refreshes.
        num_timesteps: length of the chain that the list is made for.
        flops_ratio: counted FLOPs without a cache divided by those with it, for the same sampler.
        overrides: overrides that turn the cache of the config into the calibrated one.
    """

    timesteps: tuple[int, ...]
    num_timesteps: int
    flops_ratio: float
    overrides: tuple[str, ...]


def calibrate_head(settings: Settings, threshold: float) -> HeadCalibrationResult:
    """Sample a few images without a cache, and list the timesteps at which the first block has changed.

    Args:
        settings: a config whose cache has ``head=first_block``.
        threshold: relative change of the first block at which a timestep is a refresh, above 0.

    Raises:
        ConfigError: the cache has no first-block cache, or the config cannot be run. Nothing is written.
    """
    check_device(settings.trainer.accelerator)
    require_folder(Path(settings.output_dir).absolute())
    session = Session.from_settings(settings)
    if not isinstance(session.cache, LazyMAR) or not isinstance(session.cache.head, FirstBlockHeadCache):
        raise ConfigError(
            "calibrate.head_threshold needs the first-block cache; use cache=head cache.head=first_block."
        )
    session.plans.require_one(settings.dataset.num_images, "calibrate")
    session.check_batch(min(settings.trainer.batch_size, settings.dataset.num_images))
    movement = FirstBlockMovement()
    sample_recorded(settings, session, NoCache(), [movement])
    changes = movement.changes()
    timesteps, length = refresh_timesteps(changes, threshold), len(changes)
    head = {**settings.cache["head"], "timesteps": timesteps, "timesteps_for": length}
    cache = {**settings.cache, "head": head}
    with busy("counting FLOPs"):
        ratio = counted_with(session, None) / counted_with(session, cache)
    listed = ",".join(map(str, timesteps))
    overrides = (f"cache.head.timesteps=[{listed}]", f"cache.head.timesteps_for={length}")
    write_calibration(settings, cache, overrides, ratio)
    return HeadCalibrationResult(tuple(timesteps), length, ratio, overrides)
