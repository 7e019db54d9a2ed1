"""The hash that names what a config computes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mar_accel.caching.adaptive import AdaptiveRefresh
from mar_accel.runs.fingerprints import fingerprints

# What images and numbers depend on; where they are written and how they are shown does not count.
HASHED_KEYS = ("model", "sampler", "cache", "dataset", "features", "reference", "seed", "evaluate.images")
# What an evaluation measures besides. Two evaluations of the same images may differ in it.
MEASURED_KEYS = (
    "evaluate.fidelity_images",
    "evaluate.baseline",
    "evaluate.baseline_sampler",
    "evaluate.timing_rounds",
    "evaluate.lpips",
    "evaluate.profile",
    "evaluate.save_images",
)
# A model's defaults count where they are used: in the sampler and in the cache.
MODEL_DEFAULTS = ("model.sampling.guidance_scale", "model.sampling.max_timestep")
_NOT_HASHED = ("reference.cache_dir", "dataset.training_data", "model.sampling")
_PER_BATCH_REFRESH = f"{AdaptiveRefresh.__module__}.{AdaptiveRefresh.__qualname__}"


def decides_per_batch(config: Any) -> bool:
    """Whether an image depends on the batch it is in: where a batch decides together when to refresh.

    Which images are in a batch depends on its size and on the number of devices.
    """
    return OmegaConf.select(config, "cache.refresh._target_") == _PER_BATCH_REFRESH


def config_hash(config: DictConfig, any_number: bool = False, measured: bool = False) -> str:
    """Twelve hexadecimal digits that name what a config computes: the same for the same images.

    Args:
        any_number: the same for any number of these images, too.
        measured: another for every set of numbers that an evaluation takes of them.
    """
    content: dict[str, Any] = {}
    for key in (*HASHED_KEYS, *(MEASURED_KEYS if measured else ())):
        value = OmegaConf.select(config, key)
        content[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    for name in (*_NOT_HASHED, *(("dataset.num_images",) if any_number else ())):
        group, key = name.split(".")
        (content[group] or {}).pop(key, None)
    head = (content["cache"] or {}).get("head") or {}
    if head.get("refresh_below") == "model":
        head["refresh_below"] = OmegaConf.select(config, "model.sampling.head_refresh_below", default=0.0)
    content["precision"] = config.trainer.precision
    content["files"] = fingerprints(config, baseline=measured)
    if decides_per_batch(config):
        content |= {"batch_size": config.trainer.batch_size, "devices": config.trainer.devices}
    text = json.dumps(_as_numbers(content), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _as_numbers(value: Any) -> Any:
    """The same with whole floats as integers: a scale of 4.0 is one of 4."""
    if isinstance(value, dict):
        return {key: _as_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
