"""Building the modules that an evaluation compares."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mar_accel.config.compose import compose_config
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.inference.module import InferenceModule

# What the unaccelerated config takes over from the config it is compared with: they say what is sampled, not
# how fast.
SHARED_SAMPLER_KEYS = ("guidance_scale", "temperature")


def baseline_config(config: DictConfig, sampler: Mapping[str, Any] | None = None) -> DictConfig:
    """The unaccelerated config that ``config`` is compared with: ``sampler=mar cache=none``.

    Args:
        config: model, dataset, seed, guidance scale and temperature are its own.
        sampler: keys of the unaccelerated sampler that are to differ from ``sampler=mar``; None: as there.
    """
    plain = compose_config("generate", ["sampler=mar", "cache=none"])
    baseline = copy.deepcopy(config)
    OmegaConf.set_struct(baseline, False)
    baseline.sampler, baseline.cache = plain.sampler, plain.cache
    for key in SHARED_SAMPLER_KEYS:
        if key in config.sampler:
            baseline.sampler[key] = config.sampler[key]
    for name, value in (sampler or {}).items():
        if name not in baseline.sampler:
            raise ConfigError(
                f"evaluate.baseline_sampler.{name} is no key of sampler=mar; choose among "
                f"{', '.join(str(known) for known in baseline.sampler)}."
            )
        if value is not None:
            baseline.sampler[name] = value
    return baseline


def same_sampling(a: DictConfig, b: DictConfig) -> bool:
    """Whether two configs sample the same images in the same way."""
    keys = ("sampler", "cache")
    plain = [OmegaConf.to_container(config, resolve=True) for config in (a, b)]
    return all(plain[0][key] == plain[1][key] for key in keys)  # type: ignore[index,call-overload]


def with_sampling(module: InferenceModule, config: DictConfig) -> InferenceModule:
    """Another module with the same weights, and sampler and cache of ``config``."""
    return module.with_sampling(build_sampler(config), build_cache(config))
