"""How a run of a sweep ended, as a small file that the end of the sweep reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mar_accel.runs.record import write_json

DONE, SKIPPED, FAILED, ELSEWHERE = "done", "skipped", "failed", "elsewhere"


@dataclass(frozen=True)
class RunResult:
    """How one run of a sweep ended.

    Attributes:
        number: the job's number in the sweep, from 0.
        overrides: what the command line says of this run.
        status: "done"; "skipped": was finished before; "failed"; "elsewhere": another sweep was making it.
        folder: the run folder; None where the run has no name, as its config is not valid.
        finished_file: name of the file that only a finished run has in its folder.
        reason: one sentence, where it failed.
        metrics: numbers that the run recorded.
        environment: revision, hardware and threads that its speeds were measured with.
        other_conditions: whether its speeds are left out, as they were measured under other conditions than
            this sweep asks for.
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
        """The file with the run's numbers, where it is finished."""
        file = Path(self.folder or "", self.finished_file)
        return file if self.folder is not None and file.is_file() else None

    def write(self, folder: Path) -> None:
        """Write into the folder of a sweep's results."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(asdict(self), folder / f"{self.number}.json")


def read_results(folder: Path) -> list[RunResult]:
    """What the runs of a sweep wrote, by number."""
    records = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    results = [RunResult(**{**record, "overrides": tuple(record["overrides"])}) for record in records]
    return sorted(results, key=lambda result: result.number)
