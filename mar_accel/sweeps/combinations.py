"""The runs that a grid stands for: what applies to each one, which are equal, and which are left out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.errors import ConfigCompositionException

from mar_accel.config.messages import sentence_for
from mar_accel.config.missing_keys import missing_key
from mar_accel.config.overrides import key_of, value_of
from mar_accel.errors import ConfigError
from mar_accel.runs.identity import NEVER_COUNTS
from mar_accel.sweeps.conditions import Condition
from mar_accel.sweeps.job_config import JobConfig
from mar_accel.utils.json_files import with_whole_numbers

Compose = Callable[[Sequence[str]], JobConfig]
ROW = "row"


@dataclass(frozen=True)
class Combination:
    """One combination of what was typed.

    Attributes:
        overrides: a value for every key.
        row: name of the row of ``sweep.rows``; empty without rows.
    """

    overrides: tuple[str, ...]
    row: str = ""


@dataclass(frozen=True)
class PlannedRun:
    """A run that one or more combinations stand for.

    Attributes:
        overrides: the overrides that its config has.
        left_out: the typed overrides whose keys its config does not have.
        row: name of its row; empty without rows.
        equal: typed overrides of the other combinations that are the same run.
        reason: why its config is refused; None if it can be composed.
    """

    overrides: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    row: str = ""
    equal: tuple[tuple[str, ...], ...] = ()
    reason: str | None = None


def plan_runs(
    combinations: Sequence[Combination],
    compose: Compose,
    command: str,
    only: Sequence[Condition] = (),
    skip: Sequence[Condition] = (),
) -> list[PlannedRun]:
    """The runs of a grid, in the order of the combinations.

    Args:
        combinations: all combinations, at least one.
        compose: composes the config of a job.
        command: the command, whose keys are suggested for a mistyped one.
        only: conditions one of which must hold; empty: all runs.
        skip: conditions none of which may hold.

    Raises:
        ConfigError: no combination has a key (it is mistyped), none can be composed, or the conditions
            leave none.
    """
    found = [compose_run(combination, compose, command) for combination in combinations]
    composed = [(run, config) for run, config in found if config is not None]
    if not composed:
        raise ConfigError(str(found[0][0].reason))
    _refuse_unknown_keys(found, command)
    _refuse_unknown_conditions(composed, (*only, *skip))
    runs: dict[str, PlannedRun] = {}
    for number, (run, config) in enumerate(found):
        if config is None:
            runs[f"refused {number}"] = run
            continue
        values = _lookup(run, config)
        if (only and not any(c.holds(values) for c in only)) or any(c.holds(values) for c in skip):
            continue
        name = content_of_config(config)
        first = runs.setdefault(name, run)
        if first is not run:
            row = (f"{ROW}={run.row}",) if run.row else ()
            runs[name] = replace(first, equal=(*first.equal, (*row, *run.overrides, *run.left_out)))
    if not runs:
        raise ConfigError("sweep.only and sweep.skip leave no run; correct a condition.")
    return list(runs.values())


def compose_run(
    combination: Combination, compose: Compose, command: str
) -> tuple[PlannedRun, JobConfig | None]:
    """The config of a combination without the keys that it does not have; None if it is refused."""
    kept, left_out = list(combination.overrides), list[str]()
    while True:
        try:
            return PlannedRun(tuple(kept), tuple(left_out), combination.row), compose(kept)
        except Exception as error:
            lacking = _override_of(missing_key(error), kept)
            if lacking is None:
                reason = str(sentence_for(error, command, composing=True))
                return PlannedRun(tuple(kept), tuple(left_out), combination.row, reason=reason), None
            kept.remove(lacking)
            left_out.append(lacking)


def _override_of(key: str | None, overrides: Sequence[str]) -> str | None:
    return next((override for override in overrides if key is not None and key_of(override) == key), None)


def _refuse_unknown_keys(found: Sequence[tuple[PlannedRun, JobConfig | None]], command: str) -> None:
    """Raise ConfigError for a key that no combination has."""
    had = {key_of(override) for run, config in found if config is not None for override in run.overrides}
    reasons = [run.reason or "" for run, _ in found]
    for run, _ in found:
        for override in run.left_out:
            # A key is there, too, where a key below it was refused.
            below = f"{key_of(override)}."
            if key_of(override) not in had and not any(reason.startswith(below) for reason in reasons):
                error = ConfigCompositionException(f"Could not override '{key_of(override)}'.")
                raise ConfigError(str(sentence_for(error, command, composing=True)))


def _refuse_unknown_conditions(
    composed: Sequence[tuple[PlannedRun, JobConfig]], conditions: Sequence[Condition]
) -> None:
    for condition in conditions:
        for key in condition.keys:
            if all(_lookup(run, config)(key) is None for run, config in composed):
                raise ConfigError(
                    f"sweep.only or sweep.skip tests {key} ({condition.text}), which no run has; correct the "
                    "key."
                )


def _lookup(run: PlannedRun, config: JobConfig) -> Callable[[str], Any]:
    """The values that conditions test: the row, chosen members, and keys of the config."""
    typed = {key_of(o).replace("/", "."): value_of(o) for o in run.overrides}

    def value(key: str) -> Any:
        if key == ROW:
            return run.row or None
        if key in config.choices:
            return config.choices[key]
        return typed[key] if key in typed else config.value(key)

    return value


def content_of_config(config: JobConfig) -> str:
    """What two runs are equal by: the config without paths, loggers and Hydra's own node."""
    plain = copy.deepcopy(config.values)
    for key in NEVER_COUNTS:
        above, _, name = key.rpartition(".")
        node = plain.get(above) if above else plain
        if isinstance(node, dict):
            node.pop(name, None)
    return json.dumps(with_whole_numbers(plain), sort_keys=True, default=str)
