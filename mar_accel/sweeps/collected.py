"""The collected table: a row per setting, with its runs over seeds and its numbers.

It is the one form in which tables, reports and notebooks see many runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mar_accel.config.overrides import same_value, split_outside
from mar_accel.errors import ConfigError
from mar_accel.metrics.directions import own_direction, own_directions
from mar_accel.sweeps.numbers import Number, metric_of, number_keys, number_over_seeds
from mar_accel.sweeps.run_folders import CollectedRun, read_runs
from mar_accel.sweeps.swept_keys import Values, shown_value, swept_values, value_in

FLOPS = "tflops_per_image"
TIMES = ("latency_s_per_image", "seconds_per_image")


@dataclass(frozen=True)
class CollectedRow:
    """One setting.

    Attributes:
        values: the swept keys that the setting has, with their values, without the seed.
        runs: its runs, one per seed, in the order of the seeds.
        numbers: its numbers by the keys of ``metrics.json``.
        label: its name in a table of named rows; empty elsewhere.
    """

    values: Mapping[str, Any]
    runs: tuple[CollectedRun, ...]
    numbers: Mapping[str, Number] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """Its label, else the setting as overrides: ``cache.token.ratios=0.1``; of a lone one, its model."""
        if self.label:
            return self.label
        text = " ".join(f"{key}={shown_value(value)}" for key, value in self.values.items())
        return text or str(self.runs[0].config["model"]["name"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its runs."""
        return tuple(run.seed for run in self.runs)

    def value(self, key: str) -> float | None:
        """A number without its error; None if the setting does not have it."""
        number = self.numbers.get(key)
        return None if number is None else number.value


@dataclass(frozen=True)
class Collected:
    """All settings of some runs.

    Attributes:
        keys: the swept keys, in the order of the columns.
        rows: the settings: first the baseline, then in the order of the runs.
        metrics: keys of the numbers that any row has, in the order of the columns.
        baseline: the row that ratios refer to.
        notes: sentences for the reader: what was left out, what cannot be compared.
        timed_in_turn: whether all rows were timed in turn. The speedup is then over the baseline row.
    """

    keys: tuple[str, ...]
    rows: tuple[CollectedRow, ...]
    metrics: tuple[str, ...]
    baseline: CollectedRow
    notes: tuple[str, ...] = ()
    timed_in_turn: bool = False

    @property
    def runs(self) -> tuple[CollectedRun, ...]:
        """The runs of all rows."""
        return tuple(run for row in self.rows for run in row.runs)

    def ratio(self, row: CollectedRow, key: str) -> Number | None:
        """How many times as much the baseline row needs of a number, such as FLOPs or seconds.

        Args:
            row: the row that is compared.
            key: key of the number.

        Returns:
            The ratio with its standard error; None where a row lacks the number, or where seconds were
            measured under different conditions.
        """
        ours, base = row.numbers.get(key), self.baseline.numbers.get(key)
        if ours is None or base is None or not ours.value:
            return None
        if key != FLOPS and _conditions(row) != _conditions(self.baseline):
            return None
        ratio = base.value / ours.value
        parts = [n.error / n.value for n in (ours, base) if n.error is not None and n.value]
        same = row is self.baseline
        return Number(ratio, ratio * math.hypot(*parts) if parts and not same else None)


def collect(
    paths: Sequence[str | Path],
    baseline: str | None = None,
    tuned: Sequence[str] = (),
    objective: str = "fid",
    node: str = "collect",
) -> Collected:
    """The settings of all finished runs at and below folders.

    Args:
        paths: folders of runs, sweeps or tables.
        baseline: overrides that describe the row to compare with, such as "sampler=mar cache=none".
            None: the row with the most FLOPs, which is the unaccelerated one if it is there.
        tuned: keys of which every setting shows only its best value.
        objective: the metric that says which value is best.
        node: config node of the arguments, for messages.

    Raises:
        DataError: a path is no folder, or there is no finished run.
        ConfigError: no row, or more than one, is described by ``baseline``.

    Example:
        >>> for row in collect(["multirun/evaluate"]).rows:
        ...     print(row.name, row.seeds, row.numbers["fid"].value)
    """
    runs, notes = read_runs(paths, f"{node}.folders")
    return collect_runs(runs, baseline, notes, tuned, objective, node)


def collect_runs(
    runs: Sequence[CollectedRun],
    baseline: str | None = None,
    notes: Sequence[str] = (),
    tuned: Sequence[str] = (),
    objective: str = "fid",
    node: str = "collect",
) -> Collected:
    """The settings of runs that have been read, in the order of the runs."""
    values = swept_values(runs)
    settings = _settings(runs, values)
    notes = [*notes, *_dropped_notes(runs, [members for _, members in settings])]
    rows = [_row(own, members) for own, members in settings]
    if tuned:
        rows = _best_values(rows, tuned, objective, node)
        notes = [
            *notes,
            f"{', '.join(tuned)}: the best of the values that were run, by {objective} of these same "
            "images; confirm it with a fresh seed.",
        ]
    keys = tuple(dict.fromkeys(key for row in rows for key in row.values))
    metrics = tuple(number_keys([run.metrics for run in runs]))
    base = _baseline(rows, baseline, f"{node}.baseline")
    rows.sort(key=lambda row: row is not base)
    return Collected(keys, tuple(rows), metrics, base, (*notes, *_revision_notes(runs)))


def _settings(
    runs: Sequence[CollectedRun], values: Sequence[Values]
) -> list[tuple[Values, list[CollectedRun]]]:
    """The runs of each setting. Of equal runs, such as a copied folder, the newest counts."""
    settings: dict[str, tuple[Values, dict[int, CollectedRun]]] = {}
    for run, own in zip(runs, values, strict=True):
        _, members = settings.setdefault(json.dumps(own, sort_keys=True, default=str), (own, {}))
        there = members.get(run.seed)
        if there is None or str(there.record.get("finished")) < str(run.record.get("finished")):
            members[run.seed] = run
    return [(own, [members[seed] for seed in sorted(members)]) for own, members in settings.values()]


def _dropped_notes(runs: Sequence[CollectedRun], kept: Sequence[Sequence[CollectedRun]]) -> list[str]:
    """A note if runs are left out that are no copies: a newer run of the same setting and seed counts."""
    there = {_evaluation(run) for members in kept for run in members}
    dropped = [run.folder for run in runs if _evaluation(run) not in there]
    if not dropped:
        return []
    more = f" and {len(dropped) - 1} more" if len(dropped) > 1 else ""
    return [f"left out, since a newer run has the same settings and seed: {dropped[0]}{more}."]


def _evaluation(run: CollectedRun) -> str:
    """What tells evaluations apart: the hash of the run's own record, else its folder."""
    return str((run.record.get("identity") or {}).get("evaluation") or run.folder)


def _row(values: Values, runs: Sequence[CollectedRun]) -> CollectedRow:
    metrics = [run.metrics for run in runs]
    numbers = {key: number_over_seeds(key, metrics) for key in number_keys(metrics)}
    return CollectedRow(values, tuple(runs), {key: n for key, n in numbers.items() if n is not None})


def _best_values(
    rows: Sequence[CollectedRow], tuned: Sequence[str], objective: str, node: str
) -> list[CollectedRow]:
    """Of the rows that differ only in tuned keys, the best one."""
    own = own_directions(run.config.get("metrics") or {} for row in rows for run in row.runs[:1])
    better = metric_of(objective).better or own_direction(objective, own)
    unknown = [key for key in tuned if not any(key in row.values for row in rows)]
    if unknown or not better:
        what = f"{node}.tuned={unknown[0]} differs" if unknown else f"{node}.objective={objective} is better"
        raise ConfigError(f"{what} in no known way between these runs; name a swept key and a metric.")
    if all(row.value(objective) is None for row in rows):
        known = ", ".join(key for key in number_keys([run.metrics for row in rows for run in row.runs]))
        raise ConfigError(f"{node}.objective={objective} was measured in no run; choose one of {known}.")
    groups: dict[str, list[CollectedRow]] = {}
    for row in rows:
        others = {key: value for key, value in row.values.items() if key not in tuned}
        groups.setdefault(json.dumps(others, sort_keys=True, default=str), []).append(row)
    sign = 1.0 if better == "lower" else -1.0

    def loss(row: CollectedRow) -> float:
        value = row.value(objective)
        return math.inf if value is None else sign * value

    return [min(group, key=loss) for group in groups.values()]


def _baseline(rows: Sequence[CollectedRow], wanted: str | None, key: str) -> CollectedRow:
    if wanted is None:
        return max(rows, key=lambda row: row.value(FLOPS) or 0.0)
    described = dict(part.partition("=")[::2] for part in split_outside(wanted, " ") if part)
    found = [
        row for row in rows if all(same_value(_value_of(row, key), text) for key, text in described.items())
    ]
    if len(found) != 1:
        names = "; ".join(row.name for row in (found or rows))
        raise ConfigError(f"{key}={wanted} describes {len(found)} rows; choose one of: {names}.")
    return found[0]


def _value_of(row: CollectedRow, key: str) -> Any:
    """The value of a swept key, else that of the config."""
    return row.values[key] if key in row.values else value_in(row.runs[0], key)


def _conditions(row: CollectedRow) -> set[str]:
    return {
        json.dumps({**run.conditions, "trainer": run.config.get("trainer")}, sort_keys=True)
        for run in row.runs
    }


def _revision_notes(runs: Sequence[CollectedRun]) -> list[str]:
    """What a reader must know who compares speeds or images of these runs."""
    notes = []
    for name, values in (
        ("revisions of the code", {str(run.conditions.get("revision"))[:14] for run in runs}),
        (
            "machines or numbers of threads",
            {json.dumps({k: v for k, v in run.conditions.items() if k != "revision"}) for run in runs},
        ),
    ):
        if len(values) > 1:
            shown = f": {', '.join(sorted(values))}" if name.startswith("rev") else ""
            notes.append(f"the runs come from {len(values)} {name}{shown}.")
    return notes
