"""The rows of a table as runs: planned like the runs of a grid, each compared with the first row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from mar_accel.config.rows import load_rows, select_rows, shared_overrides
from mar_accel.config.settings import Settings
from mar_accel.data.run_files import METRICS_FILE
from mar_accel.errors import ConfigError
from mar_accel.evaluation.run import evaluate, judged_hash
from mar_accel.evaluation.token_files import num_tokens
from mar_accel.inference.progress import ImageProgress
from mar_accel.runs.identity import Identity, differences
from mar_accel.sweeps.combinations import PlannedRun, plan_runs
from mar_accel.sweeps.grid import combinations
from mar_accel.sweeps.job_config import JobConfig, compose_job
from mar_accel.sweeps.run_folders import ROWS
from mar_accel.sweeps.table_result import RowResult
from mar_accel.utils.json_files import read_json
from mar_accel.utils.progress import Bars

_ROW_KEY = "row="


@dataclass(frozen=True)
class TableRow:
    """A row that is run.

    Attributes:
        names: its name, and those of the rows that are equal to it.
        run: its overrides, as they were planned.
        settings: its settings.
        identity: what they stand for, with the content of files.
        folder: name of its folder. It does not count the number of images, so that more can be added later,
            unless another row differs in nothing else.
    """

    names: tuple[str, ...]
    run: PlannedRun
    settings: Settings
    identity: Identity
    folder: str


def plan_rows(settings: Settings, overrides: Sequence[str]) -> tuple[list[TableRow], list[str]]:
    """The rows of a table, planned as a grid is: equal rows are one, and several values are several rows.

    Args:
        settings: settings of the whole table.
        overrides: overrides that apply to every row; a row's own overrides take precedence.

    Returns:
        The rows that are run, and the names of all lines of the table in the order of the file.

    Raises:
        ConfigError: the file, a name or an override is wrong. Nothing has run then.
    """
    wanted = settings.table
    rows = select_rows(load_rows(wanted.rows), wanted.only, "table.only", keep_first=True)
    typed = combinations(shared_overrides(overrides, "table"), OverridesParser.create(), rows)
    names = _names([(c.row, c.overrides) for c in typed])

    @cache
    def composed(kept: tuple[str, ...]) -> JobConfig:
        return compose_job("evaluate", kept)

    runs = plan_runs(typed, lambda kept: composed(tuple(kept)), "evaluate")
    refused = next((run.reason for run in runs if run.reason is not None), None)
    if refused is not None:
        raise ConfigError(refused)
    settings_of_runs = [composed(run.overrides).settings("evaluate") for run in runs]
    identities = [Identity.of(own) for own in settings_of_runs]
    folders = _folders([run.row for run in runs], identities)
    planned = []
    for run, own_settings, identity, folder in zip(runs, settings_of_runs, identities, folders, strict=True):
        own = [(run.row, run.overrides, run.left_out)]
        own += [(other[0].removeprefix(_ROW_KEY), other[1:], ()) for other in run.equal]
        found = dict.fromkeys(names[row, frozenset((*kept, *left))] for row, kept, left in own)
        planned.append(TableRow(tuple(found), run, own_settings, identity, folder))
    _check_trainers(planned)
    return planned, list(dict.fromkeys(names.values()))


def _folders(rows: Sequence[str], identities: Sequence[Identity]) -> list[str]:
    """The folder of each run: by its row and its images, and by its evaluation where that is not enough."""
    names = [f"{row}-{identity.images_hash}" for row, identity in zip(rows, identities, strict=True)]
    judged: dict[str, set[str]] = {}
    for name, identity in zip(names, identities, strict=True):
        judged.setdefault(name, set()).add(identity.evaluation_hash)
    return [
        name if len(judged[name]) == 1 else f"{name}-{identity.evaluation_hash}"
        for name, identity in zip(names, identities, strict=True)
    ]


def _check_trainers(rows: Sequence[TableRow]) -> None:
    """Refuse rows with trainers of their own: all rows are timed in turn, by the first one's."""
    for row in rows[1:]:
        trainers = [{**own.settings.plain()["trainer"], "batch_size": None} for own in (rows[0], row)]
        for key, first, own in differences(*trainers):
            raise ConfigError(
                f"table.rows: {row.names[0]} has trainer.{key}={own} where the first row has {first}, but "
                "rows are timed together; set it on the command line, or make a table for each."
            )


def _names(typed: Sequence[tuple[str, Sequence[str]]]) -> dict[tuple[str, frozenset[str]], str]:
    """The name of each combination: that of its row, with the values that tell it from others of this row."""
    shared: dict[str, set[str]] = {}
    for row, overrides in typed:
        shared[row] = shared.get(row, set(overrides)) & set(overrides)
    return {
        (row, frozenset(overrides)): " ".join([row, *(o for o in overrides if o not in shared[row])])
        for row, overrides in typed
    }


class RowWork:
    """A row as :class:`mar_accel.runs.attempt.Work`.

    Args:
        row: the row.
        output_dir: absolute path of the table's folder.
        first: the first row, which this one is compared with. None: this is the first row.
        bars: bars of the table.
    """

    # The table times all rows in turn, when all have been made.
    times_itself = False

    def __init__(self, row: TableRow, output_dir: Path, first: RowResult | None, bars: Bars):
        self._row, self._output_dir, self._first, self._bars = row, output_dir, first, bars
        self.again = f"repeat the command with output_dir={output_dir}"

    def named(self) -> tuple[Settings, Identity]:
        """The settings with the row's folder."""
        settings, first = self._row.settings, self._first
        folder = self._output_dir / ROWS / self._row.folder
        evaluate_keys = {
            "baseline": "none" if first is None else str(first.folder),
            "save_images": True,
            "resume": True,
            # Speedups are measured later, in rounds over all rows.
            "timing_rounds": 0,
        }
        # The processes of further devices read the settings, and must have the callbacks of this one: none.
        return settings.with_(
            output_dir=str(folder), callbacks={}, evaluate=evaluate_keys
        ), self._row.identity

    def is_finished(self, settings: Settings) -> bool:
        """Whether its metrics have the requested baseline, judge and number of images."""
        return row_is_finished(Path(settings.output_dir) / METRICS_FILE, settings, self._first)

    def make(self, settings: Settings) -> None:
        """Evaluate it."""
        name, logger = self._row.names[0], settings.logger
        if "tags" in logger:  # W&B
            group = logger["group"] or self._output_dir.name
            tags = [*logger["tags"], *self._row.run.overrides]
            logger = {**logger, "name": name, "group": group, "tags": tags}
        evaluate(settings.with_(logger=logger), [ImageProgress(name, self._bars)])


def row_is_finished(file: Path, settings: Settings, first: RowResult | None) -> bool:
    """Whether the metrics of a row exist, with the requested baseline and number of images.

    Args:
        file: its ``metrics.json``.
        settings: its settings.
        first: the first row. None: this is the first row.
    """
    metrics, wanted = read_json(file), settings.evaluate
    if metrics.get("judged") != judged_hash(settings):
        return False
    if first is None:
        # The first row has no baseline. Its tokens are needed for the other rows.
        enough = num_tokens(file.parent) >= min(wanted.fidelity_images, settings.dataset.num_images)
        return enough and metrics.get("baseline") is None
    numbers = (wanted.fidelity_images, settings.dataset.num_images, first.metrics["num_images"])
    if not min(numbers):
        return True
    keys = ["latent_mse", *(["lpips"] if wanted.lpips else [])]
    return (
        metrics.get("fidelity_images") == min(numbers)
        and metrics.get("baseline") == first.metrics["identity"]["evaluation"]
        and all(metrics.get(key) is not None for key in keys)
    )
