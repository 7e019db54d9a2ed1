"""The points of a report: one per setting, with everything that a reader may ask about it."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mar_accel.data.image_sets import open_images
from mar_accel.data.run_files import CONFIG_FILE, METRICS_FILE, RECORD_FILE
from mar_accel.data.shards import formats_in
from mar_accel.errors import ConfigError, DataError, MarAccelError
from mar_accel.evaluation.result import STEPS_FILE, read_steps
from mar_accel.metrics.catalogue import keys_of
from mar_accel.metrics.directions import own_directions
from mar_accel.reporting.recorded import (
    TABLE_FILE,
    RecordedRow,
    is_recorded_table,
    read_table,
)
from mar_accel.runs.stored import numbers_of, read_record
from mar_accel.sweeps.baselines import not_compared
from mar_accel.sweeps.collected import collect
from mar_accel.sweeps.collected_table import Collected, CollectedRow
from mar_accel.sweeps.numbers import Number, number_keys
from mar_accel.sweeps.pairs import PairedRow, compare_with_baseline, with_pairs
from mar_accel.sweeps.run_folders import ROWS, CollectedRun
from mar_accel.sweeps.swept_keys import flat_items, shown_value
from mar_accel.utils.json_files import read_json

# Keys that follow from the plan of a run, for curves over the number of steps.
AR_STEPS, DIFFUSION_STEPS = "AR steps", "diffusion steps per token"
# The papers' signs for keys, which leave room for the names in figures.
SYMBOLS = {
    "sampler.num_iter": "K",
    "sampler.num_diffusion_steps": "T",
    "sampler.guidance_scale": "w",
    "sampler.order.num_stages": "stages",
    "sampler.diffusion_steps.reconstruction_steps": "T_rec",
    "sampler.selection.fraction": "β",
    "sampler.selection.num_diffusion_steps": "T_detail",
}


@dataclass(frozen=True)
class Point:
    """One setting.

    Attributes:
        name: its row in a table, or its overrides.
        label: a short name for figures.
        values: the swept keys that it has, with their values.
        numbers: its numbers by key, with their errors.
        seeds: the seeds of its runs.
        command: the command line that makes it; empty if unknown.
        config: its whole config as YAML; empty if unknown.
        baseline: whether others are compared with it.
        compared_with: place of the point that it is compared with; None if there is none.
        time_shares: share of the time by component.
        steps: one record per AR step.
        folder: run folder of its first seed; None if only its numbers are left.
        pair: its comparison with the baseline image by image; None if there is none.
    """

    name: str
    label: str
    values: Mapping[str, Any]
    numbers: Mapping[str, Number]
    seeds: tuple[int, ...] = ()
    command: str = ""
    config: str = ""
    baseline: bool = False
    compared_with: int | None = None
    time_shares: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[Mapping[str, float]] = ()
    folder: Path | None = None
    pair: PairedRow | None = None

    @property
    def has_images(self) -> bool:
        """Whether its images are on disk."""
        return self.folder is not None and bool(formats_in(self.folder))

    def counted_steps(self) -> dict[str, float]:
        """The number of AR steps, and the mean number of diffusion steps of a token; empty if unknown."""
        tokens = sum(step.get("tokens", 0.0) for step in self.steps)
        if not tokens or any("diffusion_steps" not in step for step in self.steps):
            return {}
        chains = sum(step["tokens"] * step["diffusion_steps"] for step in self.steps)
        return {AR_STEPS: len(self.steps), DIFFUSION_STEPS: round(chains / tokens, 1)}


@dataclass(frozen=True)
class Points:
    """All points of a report.

    Attributes:
        keys: the swept keys, in the order of the columns.
        metrics: keys of the numbers, in the order of the columns.
        points: the points, in the order of the rows.
        notes: sentences for the reader.
        directions: metrics of one's own that are better when high (true) or low (false), by name.
        baseline_text: what the points are compared with, if they have several baselines.
    """

    keys: tuple[str, ...]
    metrics: tuple[str, ...]
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    directions: Mapping[str, bool] = field(default_factory=dict)
    baseline_text: str = ""

    @property
    def baseline_name(self) -> str:
        """What the points are compared with, for a reader."""
        first = next((point.label for point in self.points if point.baseline), "the baseline")
        return self.baseline_text or first

    def values_of(self, key: str) -> list[Any]:
        """The different values of a swept key in their natural order, numbers before words."""
        values = {
            json.dumps(p.values[key], default=str): p.values[key] for p in self.points if key in p.values
        }
        return sorted(values.values(), key=lambda value: (not is_number(value), _sortable(value)))


def is_number(value: Any) -> bool:
    """Whether a value of a config is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sortable(value: Any) -> Any:
    return value if is_number(value) else shown_value(value)


def read_points(
    paths: Sequence[str | Path],
    baseline: str | None = None,
    tuned: Sequence[str] = (),
    objective: str = "fid",
    paired: bool = False,
    baseline_per: Sequence[str] = (),
) -> Points:
    """The points of all runs below folders, and of recorded tables.

    Args:
        paths: folders of runs, sweeps or tables. One with ``table.csv`` and without runs is a recorded table.
        baseline: overrides of the point to compare with; see :func:`mar_accel.sweeps.collected.collect`.
            None: the first row of a single table, else the point with the most FLOPs.
        tuned: keys of which every setting shows only its best value.
        objective: the metric that says which value is best.
        paired: also compare every point with its baseline image by image, where images were kept.
        baseline_per: keys whose values each have a baseline of their own.

    Raises:
        DataError: a path is no folder, or there is nothing in it.
        ConfigError: ``baseline`` describes no row, or several, or nothing differs in a tuned key; or such an
            option is given for recorded tables alone.

    Example:
        >>> read_points(["multirun/evaluate"]).points[0].numbers["fid"].value
    """
    tables = [Path(path) for path in paths if is_recorded_table(Path(path))]
    folders = [path for path in paths if Path(path) not in tables]
    collected, pairs = None, dict[str, PairedRow]()
    if tables and not folders:
        given = {"baseline": baseline, "baseline_per": baseline_per, "tuned": tuned}
        _refuse_what_needs_runs(given, tables)
    else:
        collected = collect(folders, baseline, tuned, objective, "report", baseline_per)
        collected = _named_rows(collected, first_is_baseline=baseline is None and not baseline_per)
        if paired:
            collected, pairs = _paired(collected)
    points = (
        [] if collected is None else [_point(place, collected, pairs) for place in range(len(collected.rows))]
    )
    notes = [] if collected is None else [*not_compared(collected), *collected.notes]
    for table in tables:
        rows = read_table(table)
        points += [_recorded_point(row, number == 0 and not points) for number, row in enumerate(rows)]
        notes.append(
            f"{table} is a recorded table: it has numbers, and no run folders with images or configs."
        )
    if not points:
        raise DataError(f"report.folders={paths} has neither runs nor a recorded table.")
    named = _with_unique_names(points)
    swept = [*(collected.keys if collected is not None else ()), *(k for p in points for k in p.values)]
    keys = tuple(key for key in dict.fromkeys(swept))
    metrics = number_keys([{key: n.value for key, n in point.numbers.items()} for point in named])
    runs = [] if collected is None else [row.runs[0] for row in collected.rows]
    directions = own_directions(run.config.get("metrics") or {} for run in runs)
    several = collected.baseline_name if collected is not None and len(collected.baselines) > 1 else ""
    return Points(keys, tuple(metrics), tuple(named), tuple(notes), directions, several)


def _refuse_what_needs_runs(given: Mapping[str, Any], tables: Sequence[Path]) -> None:
    """Raise ConfigError for an option that recorded tables cannot follow: they have numbers alone."""
    for key, value in given.items():
        if value:
            raise ConfigError(
                f"report.{key} needs runs, and {', '.join(map(str, tables))} has recorded numbers alone; "
                "leave it out, or give the folder of the runs."
            )


def _named_rows(collected: Collected, first_is_baseline: bool) -> Collected:
    """The rows of tables under their names; those of a single table in its order."""
    rows = [replace(row, label=_row_name(row.runs[0]) or "") for row in collected.rows]
    rows = _with_unique_labels(rows)
    collected = replace(collected, rows=tuple(rows))
    tables = {_table_of(row.runs[0]) for row in rows}
    (table,) = tables if len(tables) == 1 else (None,)
    order = [] if table is None else [row.name for row in read_table(table)]
    if not {row.label for row in rows} <= {*order}:
        return collected
    in_order = sorted(range(len(rows)), key=lambda place: order.index(rows[place].label))
    collected = collected.reordered(in_order)
    return replace(collected, compared_with=(0,) * len(rows)) if first_is_baseline else collected


def _with_unique_labels(rows: Sequence[CollectedRow]) -> list[CollectedRow]:
    """The rows, where equal labels, which several tables may have, are told apart by a number."""
    labels = _numbered([row.label for row in rows])
    # A row without a label has its setting as its name.
    return [replace(row, label=label if row.label else "") for row, label in zip(rows, labels, strict=True)]


def _paired(collected: Collected) -> tuple[Collected, dict[str, PairedRow]]:
    """The table with the differences of each row, and these by name; a note says where there are none."""
    try:
        pairs, notes = compare_with_baseline(collected)
    except MarAccelError as error:
        return with_pairs(collected, [], [f"no paired differences: {error}"]), {}
    return with_pairs(collected, pairs, notes), {pair.row.name: pair for pair in pairs}


def _point(place: int, collected: Collected, pairs: Mapping[str, PairedRow]) -> Point:
    row, base = collected.rows[place], collected.compared_with[place]
    run = row.runs[0]
    metrics = read_json(run.folder / METRICS_FILE)
    return Point(
        name=row.name,
        label=row.label or _label(row),
        values=_all_values(row, collected),
        numbers={**row.numbers, **_table_speeds(run)},
        seeds=row.seeds,
        command=_command(run),
        config=_config(run),
        baseline=base == place,
        compared_with=base,
        time_shares=numbers_of(metrics.get("time_shares")),
        steps=tuple(read_steps(run.folder / STEPS_FILE)),
        folder=run.folder,
        pair=pairs.get(row.name),
    )


def _all_values(row: CollectedRow, collected: Collected) -> dict[str, Any]:
    """The values of a row for all swept keys, also where they are those of its group's member."""
    config = dict(flat_items(row.runs[0].config))
    known = {key: row.values.get(key, config.get(key)) for key in collected.keys}
    return {key: value for key, value in known.items() if value is not None}


def _recorded_point(row: RecordedRow, first: bool) -> Point:
    return Point(
        row.name, row.name, row.values, row.numbers, seeds=row.seeds, command=row.command, baseline=first
    )


def _with_unique_names(points: Sequence[Point]) -> list[Point]:
    """The points, where equal names and labels are told apart by a number."""
    names, labels = _numbered([point.name for point in points]), _numbered([point.label for point in points])
    told = zip(points, names, labels, strict=True)
    return [replace(point, name=name, label=label) for point, name, label in told]


def _numbered(texts: Sequence[str]) -> list[str]:
    """The texts, where each of equal ones has a number: "gtr (1)"."""
    counts, seen, told = Counter(texts), Counter[str](), list[str]()
    for text in texts:
        seen[text] += 1
        told.append(f"{text} ({seen[text]})" if counts[text] > 1 else text)
    return told


def _table_of(run: CollectedRun) -> Path | None:
    """The folder of the table that a run is a row of."""
    table = run.folder.parent.parent
    return table if run.folder.parent.name == ROWS and (table / TABLE_FILE).is_file() else None


def _row_name(run: CollectedRun) -> str | None:
    """The name of the run's row in its table."""
    table = _table_of(run)
    if table is None:
        return None
    # Folders have only the name of a row whose values are several rows. Older tables have no list.
    names = read_record(table / RECORD_FILE).get("rows") or {}
    return str(names.get(run.folder.name) or run.folder.name.rsplit("-", 1)[0])


def _table_speeds(run: CollectedRun) -> dict[str, Number]:
    """The speeds that the table measured in interleaved rounds; they take the place of the run's own."""
    table, name = _table_of(run), _row_name(run)
    if table is None:
        return {}
    numbers: Mapping[str, Number] = next((row.numbers for row in read_table(table) if row.name == name), {})
    return {key: number for key, number in numbers.items() if key in keys_of("speed")}


def _label(row: CollectedRow) -> str:
    """The swept values without the first parts of their keys; a member of a group stands alone."""
    parts = [short_value(key, value) for key, value in row.values.items()]
    return " ".join(parts) or row.name


def short_value(key: str, value: Any) -> str:
    """A swept value with the last part of its key; a member of a group and a class stand alone.

    Example:
        >>> short_value("sampler", "gtr"), short_value("sampler.num_iter", 16)
        ('gtr', 'K=16')
    """
    text, last = shown_value(value), key.rsplit(".", 1)[-1]
    if last == "_target_":
        return text.rsplit(".", 1)[-1]
    return text if "." not in key and text not in ("none", "null") else f"{SYMBOLS.get(key, last)}={text}"


def _command(run: CollectedRun) -> str:
    """The command line that makes the run again."""
    table = _table_of(run)
    if table is None:
        return shlex.join(["python", "-m", f"mar_accel.{run.command}", *run.overrides])
    overrides = read_record(table / RECORD_FILE).get("overrides") or []
    kept = [override for override in overrides if not override.startswith("table.only=")]
    only = f"table.only=['{_row_name(run)}']"
    return shlex.join(["python", "-m", "mar_accel.evaluate_table", *kept, only])


def _config(run: CollectedRun) -> str:
    file = run.folder / CONFIG_FILE
    return (
        file.read_text(errors="replace")
        if file.is_file()
        else OmegaConf.to_yaml(OmegaConf.create(dict(run.config)))
    )


def first_images(point: Point, count: int) -> list[Any]:
    """The first images of a point, uint8 [C, H, W] each; empty if they are not on disk."""
    if not point.has_images:
        return []
    assert point.folder is not None
    return list(open_images(point.folder).first(count))
