"""Building and running the modules that an evaluation compares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

from mar_accel.config.compose import compose_config
from mar_accel.errors import ConfigError
from mar_accel.evaluation.collect import BatchTimer
from mar_accel.generate import build_requests
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.trainer import build_trainer

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


@dataclass
class Measured:
    """What the batches of one module took.

    Attributes:
        latencies: seconds per image, one number per batch.
        peak_memory: bytes, the most that a batch needed: of the GPU, or of the process where there is none.
    """

    latencies: list[float] = field(default_factory=list)
    peak_memory: int = 0

    def add(self, latency: float, peak_memory: int) -> None:
        self.latencies.append(latency)
        self.peak_memory = max(self.peak_memory, peak_memory)


def images_per_round(config: DictConfig, trainer: pl.Trainer) -> int:
    """Images that each module samples per round: a batch per device, or all where there are fewer."""
    return min(config.dataset.num_images, config.trainer.batch_size * trainer.world_size)


def measure_interleaved(
    config: DictConfig,
    modules: Sequence[InferenceModule],
    rounds: int,
    output_dir: Path,
    on_batch: Callable[[], None] = lambda: None,
    on_round: Callable[[list[Measured]], object] = lambda measured: None,
    warmup_rounds: int = 1,
) -> list[Measured]:
    """Time modules in turn: one batch of each per round.

    A batch has ``trainer.batch_size`` images per device. As all modules have their turn in a round, a
    machine that grows slower or faster does so for all alike. ``warmup_rounds`` before the first do not
    count. ``on_batch`` is called after every batch, ``on_round`` with what is known after every round that
    counts.
    """
    timer = BatchTimer()
    trainer = build_trainer(config, [timer], output_dir)
    requests = build_requests(config)
    requests = requests.only(range(images_per_round(config, trainer)))
    measured = [Measured() for _ in modules]
    for round_number in range(warmup_rounds + rounds):
        counts = round_number >= warmup_rounds
        for module, numbers in zip(modules, measured, strict=True):
            trainer.predict(module, requests, return_predictions=False)
            if counts:
                numbers.add(timer.latencies[-1], timer.memories[-1])
            on_batch()
        if counts:
            on_round(measured)
    return measured
