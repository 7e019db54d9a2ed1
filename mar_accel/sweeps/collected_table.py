"""The collected table: a row per setting, with its runs over seeds and its numbers.

It is the one form in which tables, reports and notebooks see many runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mar_accel.sweeps.numbers import Number
from mar_accel.sweeps.run_folders import CollectedRun
from mar_accel.sweeps.swept_keys import shown_value

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

    @property
    def folder(self) -> Path | None:
        """The folder of its first run, which no other row has; None without runs."""
        return self.runs[0].folder if self.runs else None

    def value(self, key: str) -> float | None:
        """A number without its error; None if the setting does not have it."""
        number = self.numbers.get(key)
        return None if number is None else number.value


@dataclass(frozen=True)
class Collected:
    """All settings of some runs.

    Attributes:
        keys: the swept keys, in the order of the columns.
        rows: the settings: first the baselines, then the others in the order of the runs.
        metrics: keys of the numbers that any row has, in the order of the columns.
        compared_with: for each row, the place of its baseline among the rows, which is its own place for a
            baseline. None: it has no baseline.
        described: the overrides that describe the baselines; empty: they have the most FLOPs.
        baseline_per: the keys whose values each have a baseline of their own; empty: there is one.
        notes: sentences for the reader: what was left out, what cannot be compared.
        timed_in_turn: whether all rows were timed in turn. The speedup is then over the baseline.
    """

    keys: tuple[str, ...]
    rows: tuple[CollectedRow, ...]
    metrics: tuple[str, ...]
    compared_with: tuple[int | None, ...]
    described: str = ""
    baseline_per: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    timed_in_turn: bool = False

    @property
    def baselines(self) -> tuple[CollectedRow, ...]:
        """The baselines, in the order of the rows."""
        return tuple(row for place, row in enumerate(self.rows) if self.compared_with[place] == place)

    @property
    def baseline_name(self) -> str:
        """What the rows are compared with, for a reader."""
        if len(self.baselines) == 1:
            return self.baselines[0].name
        return (
            f"the row with {self.described or 'the most FLOPs'} and the same {', '.join(self.baseline_per)}"
        )

    @cached_property
    def _places(self) -> dict[Path | None, int]:
        return {row.folder: place for place, row in enumerate(self.rows)}

    def baseline_of(self, row: CollectedRow) -> CollectedRow | None:
        """The row that a row of this table is compared with; None if there is none."""
        base = self.compared_with[self._places[row.folder]]
        return None if base is None else self.rows[base]

    @cached_property
    def ratio_keys(self) -> tuple[str, ...]:
        """The costs whose ratio to the baseline any row has."""
        # Of rows that were timed in turn, the speedup is the ratio of their times.
        keys = (FLOPS,) if self.timed_in_turn else (FLOPS, *TIMES)
        several = len(self.rows) > 1
        return tuple(key for key in keys if several and any(self.ratio(row, key) for row in self.rows))

    def reordered(self, order: Sequence[int]) -> Collected:
        """The table with its rows in another order, given by their places here."""
        there = {old: new for new, old in enumerate(order)}
        bases = [self.compared_with[old] for old in order]
        return replace(
            self,
            rows=tuple(self.rows[old] for old in order),
            compared_with=tuple(None if base is None else there[base] for base in bases),
        )

    @property
    def runs(self) -> tuple[CollectedRun, ...]:
        """The runs of all rows."""
        return tuple(run for row in self.rows for run in row.runs)

    def ratio(self, row: CollectedRow, key: str) -> Number | None:
        """How many times as much the baseline of a row needs of a number, such as FLOPs or seconds.

        Args:
            row: the row that is compared.
            key: key of the number.

        Returns:
            The ratio with its standard error; None where a row lacks the number or a baseline, or where
            seconds were measured under different conditions.
        """
        baseline = self.baseline_of(row)
        if baseline is None:
            return None
        ours, base = row.numbers.get(key), baseline.numbers.get(key)
        if ours is None or base is None or not ours.value:
            return None
        if key != FLOPS and _conditions(row) != _conditions(baseline):
            return None
        ratio = base.value / ours.value
        parts = [n.error / n.value for n in (ours, base) if n.error is not None and n.value]
        same = row.folder == baseline.folder
        return Number(ratio, ratio * math.hypot(*parts) if parts and not same else None)


def _conditions(row: CollectedRow) -> set[str]:
    return {
        json.dumps({**run.conditions, "trainer": run.config.get("trainer")}, sort_keys=True)
        for run in row.runs
    }
