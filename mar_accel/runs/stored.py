"""What finished runs have written, read again: records and numbers. A damaged file is as good as none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mar_accel.errors import ConfigError
from mar_accel.metrics.catalogue import OF_A_RUN, Metric
from mar_accel.utils.json_files import is_finite_number, read_json

_COUNTS = ("num_images", "fidelity_images")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_gpus(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(gpu, dict) and _is_text(gpu.get("name")) for gpu in value
    )


# What readers rely on. Any value may also be missing or null.
_RECORD: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("config", "identity", "hardware", "rows", "identity.content"), _is_mapping),
    **dict.fromkeys(("identity.content.weights", "identity.content.sources"), _is_mapping),
    **{f"config.{node}": _is_mapping for node in ("model", "dataset", "sampler", "cache", "trainer")},
    **{"config.seed": _is_count, "config.model.name": _is_text, "config.model.architecture": _is_mapping},
    **dict.fromkeys(("finished", "git_revision"), _is_text),
    **{"overrides": _are_texts, "earlier_revisions": lambda value: isinstance(value, list)},
    "hardware.gpus": _are_gpus,
}


def read_record(file: Path) -> dict[str, Any]:
    """The content of ``run.json``; empty if it is missing or damaged."""
    record = read_json(file)
    return {} if damaged_key(record) else record


def is_whole(file: Path) -> bool:
    """Whether a file is a record or numbers of a finished run, and not damaged."""
    content = read_json(file)
    return bool(content) and not damaged_key(content) and not damaged_number(content)


def damaged_key(record: Mapping[str, Any]) -> str:
    """The key of a record whose value no run has written; empty if there is none."""
    for key, fits in _RECORD.items():
        value: Any = record
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and not fits(value):
            return key
    return ""


def damaged_number(metrics: Mapping[str, Any]) -> str:
    """The key of a number that cannot be, such as a share above 1; empty if there is none."""
    for metric in OF_A_RUN:
        if not _fits(metric, metrics.get(metric.key)) or not _fits_error(metrics.get(metric.error)):
            return metric.key
    return next((key for key in _COUNTS if not _fits_error(metrics.get(key))), "")


def _fits(metric: Metric, value: Any) -> bool:
    if value is None:
        return True
    lowest = 0.0 if metric.is_share or metric.kind in ("flops", "speed") else -float("inf")
    return is_finite_number(value) and lowest <= value <= (1.0 if metric.is_share else float("inf"))


def _fits_error(value: Any) -> bool:
    return value is None or (is_finite_number(value) and value >= 0)


def numbers_of(metrics: Any) -> dict[str, float]:
    """The numbers among the values of a record; empty if it is no record."""
    items = metrics.items() if isinstance(metrics, Mapping) else ()
    return {key: value for key, value in items if is_finite_number(value)}


@contextmanager
def recorded_in(run: Path) -> Iterator[None]:
    """A context in which errors of a recorded config name its run: the user has not typed these values."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{run}: the config of this run cannot be used here: {error}") from error
