"""Result of a sweep's run, as a small file that the summary of the sweep reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mar_accel.data.run_files import RECORD_FILE
from mar_accel.runs.stored import is_whole, read_record
from mar_accel.utils.json_files import write_json

DONE, SKIPPED, FAILED, ELSEWHERE = "done", "skipped", "failed", "elsewhere"


@dataclass(frozen=True)
class RunResult:
    """Result of one run of a sweep.

    Attributes:
        number: number of the run in the sweep, from 0.
        overrides: overrides of this run.
        status: "done", "failed", "skipped" (already finished) or "elsewhere" (another sweep makes it).
        finished_file: name of a file that only the folder of a finished run contains.
        folder: the run folder; None if the config is invalid.
        reason: one sentence if the run failed.
        metrics: recorded numbers.
        environment: revision, hardware and threads of the speed measurement.
        other_conditions: whether speeds are left out because their conditions differ from this sweep's.
        row: name of its row; empty without ``sweep.rows``.
        left_out: typed overrides whose keys its config does not have.
        equal: typed overrides of the other combinations that are this same run.
    """

    number: int
    overrides: tuple[str, ...]
    status: str
    finished_file: str
    folder: str | None = None
    reason: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    other_conditions: bool = False
    row: str = ""
    left_out: tuple[str, ...] = ()
    equal: tuple[tuple[str, ...], ...] = ()

    @property
    def title(self) -> str:
        """How messages name it: ``run 3``, or ``run 3 (gtr)`` with its row."""
        return f"run {self.number} ({self.row})" if self.row else f"run {self.number}"

    @property
    def record(self) -> Path | None:
        """The file with the run's numbers; None if the run is not finished, or a record of it is damaged."""
        file = Path(self.folder or "", self.finished_file)
        whole = self.folder is not None and is_whole(file)
        # Another object of JSON is no record.
        return file if whole and read_record(file.with_name(RECORD_FILE)).get("config") else None

    def write(self, folder: Path) -> None:
        """Write the result to the results folder of the sweep."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(asdict(self), folder / f"{self.number}.json")


def read_results(folder: Path) -> list[RunResult]:
    """The results of a sweep's runs, sorted by number."""
    records = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    results = [RunResult(**{**record, **_tuples(record)}) for record in records]
    return sorted(results, key=lambda result: result.number)


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    """The lists of a record as tuples."""
    return {
        "overrides": tuple(record["overrides"]),
        "left_out": tuple(record["left_out"]),
        "equal": tuple(map(tuple, record["equal"])),
    }
