"""A run of calibrate for the first-block cache of the head: a threshold becomes a list of refreshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from mar_accel.caching.first_block_calibration import FirstBlockMovement, refresh_timesteps
from mar_accel.caching.head_forecast import FirstBlockHeadCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.config.settings import Settings
from mar_accel.data.requests import GenerationRequests
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_node
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.progress import ImageProgress
from mar_accel.inference.session import Session, check_device
from mar_accel.inference.trainer import build_trainer, on_one_device
from mar_accel.profiling.flops import count_flops
from mar_accel.runs.output_dir import prepare_output_dir, require_folder
from mar_accel.runs.record import run_record
from mar_accel.sampling.policy import CachePolicy, NoCache
from mar_accel.utils.json_files import write_json
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
    output_dir = Path(settings.output_dir).absolute()
    require_folder(output_dir)
    session = Session.from_settings(settings)
    if not isinstance(session.cache, LazyMAR) or not isinstance(session.cache.head, FirstBlockHeadCache):
        raise ConfigError(
            "calibrate.head_threshold needs the first-block cache; use cache=head cache.head=first_block."
        )
    session.plans.require_one(settings.dataset.num_images, "calibrate")
    movement = FirstBlockMovement()
    module = InferenceModule(session.with_sampling(session.sampler, NoCache()), "it is recorded as a whole")
    module.observers.append(movement)
    requests = GenerationRequests(settings.dataset, settings.trainer.batch_size)
    requests = requests.limited(settings.trainer.limit_predict_batches, 1)
    session.check_batch(min(requests.batch_size, requests.num_images))
    trainer = build_trainer(on_one_device(settings.trainer), [ImageProgress()], output_dir)
    trainer.predict(module, requests, return_predictions=False)
    changes = movement.changes()
    timesteps, length = refresh_timesteps(changes, threshold), len(changes)
    head = {**settings.cache["head"], "timesteps": timesteps, "timesteps_for": length}
    cache = {**settings.cache, "head": head}
    with busy("counting FLOPs"):
        policy: CachePolicy = build_node("cache", cache, CachePolicy)
        counted = [
            count_flops(session.model.config, session.sampler, each, session.plan).total
            for each in (NoCache(), policy.for_model(session.defaults))
        ]
    listed = ",".join(map(str, timesteps))
    overrides = (f"cache.head.timesteps=[{listed}]", f"cache.head.timesteps_for={length}")
    result = HeadCalibrationResult(tuple(timesteps), length, counted[0] / counted[1], overrides)
    output_dir = prepare_output_dir(output_dir)
    OmegaConf.save(OmegaConf.create(cache), output_dir / "cache.yaml")
    (output_dir / "overrides.txt").write_text("\n".join(overrides) + "\n")
    record = run_record(settings, flops_ratio=result.flops_ratio, overrides_of_cache=list(overrides))
    write_json(record, output_dir / "run.json")
    return result
