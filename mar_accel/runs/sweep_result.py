"""Result of a sweep's run, as a small file that the summary of the sweep reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mar_accel.runs.record import read_json, write_json

DONE, SKIPPED, FAILED, ELSEWHERE = "done", "skipped", "failed", "elsewhere"


@dataclass(frozen=True)
class RunResult:
    """Result of one run of a sweep.

    Attributes:
        number: number of the job in the sweep, from 0.
        overrides: overrides of this run.
        status: "done", "failed", "skipped" (already finished) or "elsewhere" (another sweep makes it).
        finished_file: name of a file that only the folder of a finished run contains.
        folder: the run folder; None if the config is invalid.
        reason: one sentence if the run failed.
        metrics: recorded numbers.
        environment: revision, hardware and threads of the speed measurement.
        other_conditions: whether speeds are left out because their conditions differ from this sweep's.
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

    @property
    def record(self) -> Path | None:
        """The file with the run's numbers; None if the run is not finished. An empty file is none."""
        file = Path(self.folder or "", self.finished_file)
        return file if self.folder is not None and read_json(file) else None

    def write(self, folder: Path) -> None:
        """Write the result to the results folder of the sweep."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(asdict(self), folder / f"{self.number}.json")


def read_results(folder: Path) -> list[RunResult]:
    """The results of a sweep's runs, sorted by number."""
    records = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    results = [RunResult(**{**record, "overrides": tuple(record["overrides"])}) for record in records]
    return sorted(results, key=lambda result: result.number)
