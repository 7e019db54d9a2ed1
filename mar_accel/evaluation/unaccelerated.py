"""The unaccelerated baseline of an evaluation: ``sampler=mar cache=none``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from mar_accel.config.compose import compose_sampling
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_sampling

# These keys affect the samples but not the speed, so they are taken from the compared config.
SHARED_SAMPLER_KEYS = ("guidance_scale", "temperature")


def unaccelerated(settings: Settings) -> Settings:
    """The settings without acceleration: same model, dataset, seed, guidance scale and temperature.

    Keys of ``evaluate.baseline_sampler`` that are not null replace those of ``sampler=mar``.

    Raises:
        ConfigError: ``evaluate.baseline_sampler`` has a key that ``sampler=mar`` does not accept.
    """
    model = asdict(settings.model)
    plain, _ = compose_sampling(model, ["sampler=mar", "cache=none"])
    wanted = {key: settings.sampler[key] for key in SHARED_SAMPLER_KEYS if key in settings.sampler}
    for key, value in settings.evaluate.baseline_sampler.items():
        if key not in plain or isinstance(plain[key], dict):
            raise ConfigError(
                f"evaluate.baseline_sampler.{key} is not a key of sampler=mar; choose one of "
                f"{', '.join(name for name, known in plain.items() if not isinstance(known, dict))}."
            )
        if value is not None:
            wanted[key] = value
    with _blaming_baseline(settings):
        return _with_sampler(settings, model, wanted)


def _with_sampler(settings: Settings, model: Mapping[str, Any], wanted: Mapping[str, Any]) -> Settings:
    """The settings with ``sampler=mar cache=none`` and some keys of the sampler, if they can be combined."""
    overrides = [f"sampler.{key}={'null' if value is None else value}" for key, value in wanted.items()]
    sampler, cache = compose_sampling(model, ["sampler=mar", "cache=none", *overrides])
    other = settings.with_(sampler=sampler, cache=cache)
    build_sampling(other)
    return other


@contextmanager
def _blaming_baseline(settings: Settings) -> Iterator[None]:
    """A context whose errors about a key that ``evaluate.baseline_sampler`` has set name that one."""
    try:
        yield
    except ConfigError as error:
        name = str(error).partition(" ")[0].rpartition(".")[2]
        if settings.evaluate.baseline_sampler.get(name) is None:
            raise
        rest = str(error).partition(" ")[2]
        raise ConfigError(f"evaluate.baseline_sampler.{name} {rest}") from error
