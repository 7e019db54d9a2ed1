"""What a search optimises: metrics and their directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mar_accel.errors import ConfigError
from mar_accel.metrics.catalogue import OF_A_RUN
from mar_accel.metrics.directions import own_direction

MINIMIZE, MAXIMIZE = "minimize", "maximize"
_KNOWN = {metric.key: metric for metric in OF_A_RUN}


def directions(
    objectives: Sequence[str], given: Sequence[str] | None, own: Mapping[str, bool] | None = None
) -> list[str]:
    """The direction of each objective: as given, else the one in which a metric is better.

    Args:
        objectives: keys of metrics.
        given: "minimize" or "maximize" for each one. None: those of the metrics.
        own: metrics of one's own that say whether they are better when high, by name.

    Raises:
        ConfigError: there are not as many directions as objectives, or a metric has no direction of its own.

    Example:
        >>> directions(["fid", "speedup"], None)
        ['minimize', 'maximize']
    """
    if given is not None:
        if len(given) != len(objectives) or not {*given} <= {MINIMIZE, MAXIMIZE}:
            raise ConfigError(
                f"hydra.sweeper.directions={list(given)} must have minimize or maximize for each of "
                f"{', '.join(objectives)}."
            )
        return list(given)
    return [_direction(key, own or {}) for key in objectives]


def _direction(key: str, own: Mapping[str, bool]) -> str:
    better = (_KNOWN[key].better if key in _KNOWN else "") or own_direction(key, own)
    if not better:
        raise ConfigError(
            f"it is unknown whether {key} is better when it is high or low; set hydra.sweeper.directions."
        )
    return MAXIMIZE if better == "higher" else MINIMIZE


def objective_values(objectives: Sequence[str], metrics: Mapping[str, float | None]) -> list[float] | None:
    """The values of the objectives; None if one is missing or not finite."""
    values = [metrics.get(key) for key in objectives]
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    return finite if len(finite) == len(values) else None
