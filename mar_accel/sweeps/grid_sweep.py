"""A sweep over a grid: planned as a whole, then launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mar_accel.config.overrides import key_of
from mar_accel.config.rows import load_rows
from mar_accel.config.settings import Positive, checked
from mar_accel.runs.sweep_result import RunResult
from mar_accel.sweeps.combinations import plan_runs
from mar_accel.sweeps.conditions import parse_conditions
from mar_accel.sweeps.cost import target_of
from mar_accel.sweeps.grid import combinations
from mar_accel.sweeps.hydra_sweep import HydraSweep
from mar_accel.sweeps.launching import launch
from mar_accel.sweeps.matched import match_cost


@checked
@dataclass(frozen=True)
class GridSettings:
    """The node ``hydra.sweeper`` of ``hydra/sweeper=grid``.

    Attributes:
        max_batch_size: number of runs that the launcher gets at a time. None: all.
        params: further overrides, by key.
    """

    max_batch_size: Positive | None = None
    params: dict[str, Any] | None = None


def sweep_grid(arguments: Sequence[str], hydra: HydraSweep, sweeper: GridSettings) -> list[RunResult]:
    """Run every combination of the swept values.

    Args:
        arguments: overrides as typed, where commas separate the values of a sweep.
        hydra: what the sweep needs of Hydra.
        sweeper: the settings of the sweeper.

    Raises:
        ConfigError: a key is mistyped, a condition cannot be read, or no run is left. Nothing has run then.
    """
    settings = hydra.settings
    rows = None if settings.rows is None else load_rows(settings.rows, "sweep.rows")
    typed = combinations(job_overrides(arguments), hydra.parser, rows)
    if settings.adjust is not None:
        target = target_of(settings)
        typed = match_cost(typed, settings.adjust, hydra.compose, hydra.read, hydra.command, target)
    runs = plan_runs(
        typed,
        hydra.compose,
        hydra.command,
        parse_conditions(settings.only, "sweep.only"),
        parse_conditions(settings.skip, "sweep.skip"),
    )
    numbered, size = list(enumerate(runs)), sweeper.max_batch_size or len(runs)
    results: list[RunResult] = []
    for start in range(0, len(runs), size):
        results += launch(dict(numbered[start : start + size]), hydra)
    return results


def job_overrides(arguments: Sequence[str]) -> list[str]:
    """The overrides that jobs get: without those of the sweep as a whole."""
    return [argument for argument in arguments if not key_of(argument).startswith("sweep.")]
