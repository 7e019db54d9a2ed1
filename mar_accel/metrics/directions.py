"""Whether a number is better when it is high or low, also that of a metric of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal

from mar_accel.config.check import locate
from mar_accel.errors import MarAccelError

_DIFFERENCE = "_difference"


def own_directions(configs: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """What the classes of the group ``metrics`` say by torchmetrics' ``higher_is_better``, by their names.

    Args:
        configs: the groups ``metrics`` of some runs. A class that cannot be imported here says nothing.

    Example:
        >>> own_directions([{"scenes": {"_target_": "mar_accel.metrics.scene_score.SceneScore"}}])
        {'scenes': True}
    """
    found: dict[str, bool] = {}
    for metrics in configs:
        for name, node in metrics.items():
            target = (node or {}).get("_target_")
            if target is None:
                continue
            with suppress(MarAccelError):
                higher = getattr(locate(f"metrics.{name}", target), "higher_is_better", None)
                if isinstance(higher, bool):
                    found[name] = higher
    return found


def own_direction(key: str, directions: Mapping[str, bool]) -> Literal["higher", "lower", ""]:
    """Whether a number of such a metric, or its difference to another setting, is better when it is high.

    Args:
        key: ``NAME``, or ``NAME_KEY`` of a metric that computes a dict.
        directions: from :func:`own_directions`.

    Returns:
        As :attr:`mar_accel.metrics.catalogue.Metric.better`.
    """
    name = f"{key.removesuffix(_DIFFERENCE)}_"
    for own, higher in directions.items():
        if name.startswith(f"{own}_"):
            return "higher" if higher else "lower"
    return ""
