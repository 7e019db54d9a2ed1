"""The variants that a benchmark compares: composed, checked and built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mar_accel.config.compose import compose_config
from mar_accel.config.rows import Row, merge_overrides
from mar_accel.errors import ConfigError
from mar_accel.generate import build_module
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.inference.module import InferenceModule
from mar_accel.models.autoencoders import Autoencoder

# Keys that belong to the benchmark as a whole, not to a variant.
_OWN_KEYS = ("benchmark.", "output_dir", "hydra.")
# All that a variant may change: rounds of different batches or devices would not be comparable.
_VARIED = ("model", "sampler", "cache")


class NoAutoencoder(Autoencoder):
    """Leaves latents as they are, so that sampling alone is timed."""

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@dataclass(frozen=True)
class Variant:
    """One variant, ready to run."""

    name: str
    config: DictConfig
    module: InferenceModule


def select_rows(variants: DictConfig, only: Sequence[str] | None) -> list[Row]:
    """The rows that ``benchmark.variants`` describes, those of ``benchmark.only`` where it is given.

    Raises:
        ConfigError: there are none, one is no list of overrides, or ``only`` names an unknown one.
    """
    described: dict[str, Any] = OmegaConf.to_container(variants) or {}  # type: ignore[assignment]
    for name, overrides in described.items():
        if not isinstance(overrides, list) or not all(isinstance(item, str) for item in overrides):
            raise ConfigError(
                f"benchmark.variants.{name}={overrides} is no list of overrides; "
                """give one such as '["sampler=gtr","cache=lazymar"]'."""
            )
    names = list(described) if only is None else list(only)
    for name in names:
        if name not in described:
            raise ConfigError(
                f"benchmark.only: {name} is no variant; choose among {', '.join(described)}, "
                f"""or describe it with +benchmark.variants.{name}='["sampler=…"]'."""
            )
    if not names:
        raise ConfigError("benchmark.only names no variant; name at least one, or give null for all.")
    return [Row(name, tuple(described[name])) for name in names]


def compose_variants(rows: Sequence[Row], overrides: Sequence[str]) -> list[DictConfig]:
    """The config of each row; ``overrides`` hold for all of them, a row's own win.

    Raises:
        ConfigError: a row overrides what has to be the same for all.
    """
    shared = [override for override in overrides if not override.lstrip("+~").startswith(_OWN_KEYS)]
    configs = []
    for row in rows:
        for override in row.overrides:
            if override.lstrip("+~").split("=")[0].split(".")[0].split("/")[0] not in _VARIED:
                raise ConfigError(
                    f"benchmark.variants.{row.name} overrides {override}, which all variants have to share; "
                    "give it on the command line instead."
                )
        configs.append(compose_config("benchmark", merge_overrides(shared, row.overrides)))
    return configs


def build_variants(rows: Sequence[Row], configs: Sequence[DictConfig], autoencoder: bool) -> list[Variant]:
    """Modules of all variants; those of the same model share its weights."""
    variants: list[Variant] = []
    for row, config in zip(rows, configs, strict=True):
        if not autoencoder:
            OmegaConf.update(config, "model.autoencoder", {"_target_": _path_of(NoAutoencoder)}, merge=False)
        like = next((other for other in variants if other.config.model == config.model), None)
        if like is None:
            module = build_module(config)
        else:
            module = like.module.with_sampling(build_sampler(config), build_cache(config))
        variants.append(Variant(row.name, config, module))
    return variants


def _path_of(target: type) -> str:
    return f"{target.__module__}.{target.__qualname__}"
