"""Finished runs as the collected table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from mar_accel.errors import ConfigError
from mar_accel.metrics.directions import own_direction, own_directions
from mar_accel.sweeps.baselines import find_baselines
from mar_accel.sweeps.collected_table import Collected, CollectedRow
from mar_accel.sweeps.numbers import metric_of, number_keys, number_over_seeds
from mar_accel.sweeps.run_folders import CollectedRun, read_runs
from mar_accel.sweeps.swept_keys import Values, swept_values


def collect(
    paths: Sequence[str | Path],
    baseline: str | None = None,
    tuned: Sequence[str] = (),
    objective: str = "fid",
    node: str = "collect",
    baseline_per: Sequence[str] = (),
) -> Collected:
    """The settings of all finished runs at and below folders.

    Args:
        paths: folders of runs, sweeps or tables.
        baseline: overrides that describe the row to compare with, such as "sampler=mar cache=none".
            None: the row with the most FLOPs, which is the unaccelerated one if it is there.
        tuned: keys of which every setting shows only its best value.
        objective: the metric that says which value is best.
        node: config node of the arguments, for messages.
        baseline_per: keys whose values each have a baseline of their own: with "sampler", a row is compared
            with the described row of its sampler.

    Raises:
        DataError: a path is no folder, or there is no finished run.
        ConfigError: no row, or more than one, is described by ``baseline``.

    Example:
        >>> for row in collect(["multirun/evaluate"]).rows:
        ...     print(row.name, row.seeds, row.numbers["fid"].value)
    """
    runs, notes = read_runs(paths, f"{node}.folders")
    return collect_runs(runs, baseline, notes, tuned, objective, node, baseline_per)


def collect_runs(
    runs: Sequence[CollectedRun],
    baseline: str | None = None,
    notes: Sequence[str] = (),
    tuned: Sequence[str] = (),
    objective: str = "fid",
    node: str = "collect",
    baseline_per: Sequence[str] = (),
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
    bases = find_baselines(rows, baseline, baseline_per, node)
    notes = [*notes, *_revision_notes(runs)]
    table = Collected(
        keys, tuple(rows), metrics, tuple(bases), baseline or "", tuple(baseline_per), tuple(notes)
    )
    return table.reordered(sorted(range(len(rows)), key=lambda place: bases[place] != place))


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
