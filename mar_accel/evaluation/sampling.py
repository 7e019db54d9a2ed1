"""Building and running the modules that an evaluation compares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mar_accel.building import build_cache, build_sampler
from mar_accel.configuration import compose_config
from mar_accel.errors import ConfigError
from mar_accel.evaluation.collect import BatchTimer
from mar_accel.generate import build_requests
from mar_accel.inference import InferenceModule
from mar_accel.prediction import build_trainer

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
    sampler, cache = build_sampler(config), build_cache(config)
    return InferenceModule(module.model, module.autoencoder, sampler, cache, config.seed).eval()


def interleaved_latencies(
    config: DictConfig,
    modules: Sequence[InferenceModule],
    rounds: int,
    output_dir: Path,
    on_batch: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Seconds per image of each module: one list per module, one number per round.

    In each round every module samples one batch of ``trainer.batch_size`` images per device, so that a
    machine that grows slower or faster does so for all alike. A round before the first warms up.
    ``on_batch`` is called after every batch.
    """
    timer = BatchTimer()
    trainer = build_trainer(config, [timer], output_dir)
    requests = build_requests(config)
    requests = requests.only(range(min(requests.num_images, config.trainer.batch_size * trainer.world_size)))
    latencies: list[list[float]] = [[] for _ in modules]
    for round_number in range(rounds + 1):
        for module, numbers in zip(modules, latencies, strict=True):
            trainer.predict(module, requests, return_predictions=False)
            if round_number:
                numbers.append(timer.latencies[-1])
            on_batch()
    return latencies
