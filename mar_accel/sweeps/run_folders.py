"""Finished runs below folders, read from their records."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mar_accel.data.run_files import IMAGES, METRICS_FILE, RECORD_FILE
from mar_accel.errors import DataError
from mar_accel.metrics.catalogue import GENERATE_METRICS
from mar_accel.runs.record import environment
from mar_accel.runs.stored import damaged_key, damaged_number, numbers_of
from mar_accel.utils.csv_files import number_in, read_csv
from mar_accel.utils.json_files import read_json

# Commands whose run folders hold images and numbers of one config.
COMMANDS = ("generate", "evaluate")
# Folder of a table that has its rows.
ROWS = "rows"
_FIDELITY = "fidelity.csv"
_UNFINISHED = "its run is not finished, or its record is damaged."
_LONGEST_SHOWN = 40


@dataclass(frozen=True)
class CollectedRun:
    """One finished run.

    Attributes:
        folder: its run folder.
        record: content of ``run.json``.
        metrics: its numbers by key; None or missing where one was not measured.
    """

    folder: Path
    record: Mapping[str, Any]
    metrics: Mapping[str, float | None]

    @property
    def config(self) -> Mapping[str, Any]:
        """The config as nested plain values."""
        return self.record["config"]

    @property
    def command(self) -> str:
        """The command that made the run: "generate" or "evaluate"."""
        return str(self.record["command"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config["seed"])

    @property
    def overrides(self) -> tuple[str, ...]:
        """The overrides of its command line; empty if unknown."""
        return tuple(self.record.get("overrides") or ())

    @property
    def conditions(self) -> dict[str, Any]:
        """Revision, hardware and threads, which a speed depends on."""
        return environment(dict(self.record))


def read_runs(
    paths: Sequence[str | Path], key: str = "collect.folders"
) -> tuple[list[CollectedRun], list[str]]:
    """All finished runs at and below folders, in the order in which they were finished, each one once.

    Args:
        paths: run folders, or folders that contain some, such as that of a sweep or a table, or the record
            of one sweep (``tables/NAME.json``).
        key: config key of the folders, for messages.

    Returns:
        The runs, and a note for each folder that could not be used.

    Raises:
        DataError: a path is no folder, or no run is finished.

    Example:
        >>> runs, notes = read_runs(["multirun/evaluate"])
    """
    found: dict[Path, CollectedRun] = {}
    notes = []
    for path in map(Path, paths):
        if not path.is_dir() and not _is_sweep(path):
            raise DataError(f"{key}={path} is not a folder; give folders of runs or sweeps.")
        for folder, reason in _runs_of_sweep(path) if path.is_file() else _folders_with_records(path):
            run = None if folder is None else _run_or_reason(folder)
            if folder is not None and isinstance(run, CollectedRun):
                found.setdefault(folder.resolve(), run)
            else:
                reason = reason or str(run)
                notes.append(f"{'a run' if folder is None else folder} is left out: {reason}")
    if not found:
        named = ", ".join(map(str, paths))
        reason = f" ({notes[0]})" if notes else ""
        raise DataError(f"{key}={named} has no finished run{reason}; give folders of generate or evaluate.")
    return sorted(found.values(), key=lambda run: (str(run.record.get("finished")), run.folder)), notes


def read_run(folder: Path) -> CollectedRun | None:
    """The run in a folder; None if it is not finished or a record of it is damaged."""
    run = _run_or_reason(folder)
    return run if isinstance(run, CollectedRun) else None


def _run_or_reason(folder: Path) -> CollectedRun | str:
    """The run in a folder, or why there is none."""
    record = read_json(folder / RECORD_FILE)
    if key := damaged_key(record):
        return f"{RECORD_FILE} is damaged at {key}; run its command again."
    config = record.get("config") or {}
    if record.get("command") not in COMMANDS or not config.get("model") or config.get("seed") is None:
        return _UNFINISHED
    metrics = record if record["command"] == "generate" else read_json(folder / METRICS_FILE)
    if key := damaged_number(metrics):
        return f"{key} cannot be {_shown(metrics.get(key))}; run its command again."
    if metrics is record:
        keys = ("num_images", *(metric.key for metric in GENERATE_METRICS))
        return CollectedRun(folder, record, {k: v for k, v in numbers_of(record).items() if k in keys})
    if not metrics:
        return _UNFINISHED
    return CollectedRun(folder, record, numbers_of(metrics) | _deviations(folder))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _is_sweep(path: Path) -> bool:
    """Whether a file is the record of a sweep."""
    return path.is_file() and isinstance(read_json(path).get("runs"), list)


def _is_sweep_run(run: Any) -> bool:
    """Whether an entry in the record of a sweep has the types that sweeps write."""
    if not isinstance(run, dict) or damaged_key(run):
        return False
    return all(isinstance(run.get(key), str | None) for key in ("folder", "reason"))


def _runs_of_sweep(path: Path) -> Iterator[tuple[Path | None, str]]:
    """The run folders of one sweep, next to the folder with its record, and why a run has failed.

    A moved sweep is found again. A refused run has no folder.
    """
    for run in read_json(path)["runs"]:
        if not _is_sweep_run(run):
            raise DataError(f"{path} is damaged, or no record of a sweep; give the folder of the sweep.")
        folder, reason = run.get("folder"), run.get("reason")
        title = f"run {run.get('number')} ({' '.join(run.get('overrides') or ())}) failed: {reason}"
        yield path.absolute().parents[1] / Path(folder).name if folder else None, title if reason else ""


def _folders_with_records(path: Path) -> Iterator[tuple[Path, str]]:
    """Folders with a record of generate or evaluate, without looking through images or hidden folders."""
    for folder, below, files in os.walk(path):
        below[:] = sorted(name for name in below if name != IMAGES and not name.startswith("."))
        # A table or a benchmark has a record of its own, beside the runs below it.
        if RECORD_FILE in files and read_json(Path(folder) / RECORD_FILE).get("command") in (None, *COMMANDS):
            yield Path(folder), ""


def _deviations(folder: Path) -> dict[str, float]:
    """Standard deviations over the compared images that ``metrics.json`` does not have."""
    try:
        values = [number_in(row["ssim"]) for row in read_csv(folder / _FIDELITY)]
    except (DataError, KeyError, ValueError):
        return {}
    return {"ssim_std": statistics.pstdev(values)} if len(values) > 1 else {}
