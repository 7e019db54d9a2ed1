"""Speed of the rows of a table: rounds in which every row samples one batch in turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings
from mar_accel.inference.processes import further_processes
from mar_accel.inference.session import Session
from mar_accel.profiling.interleaved import measure_interleaved
from mar_accel.runs.folder import read_json, write_config
from mar_accel.runs.record import environment, write_json

# The command of the settings that processes of further devices get, and the file with the rows' settings.
TIME_ROWS = "time_rows"
PLAN_FILE, ROWS_FILE, TIMING_FILE = ".timing.yaml", ".timed_rows.json", "timing.json"


def time_rows(
    rows: Sequence[Settings],
    names: Sequence[str],
    rounds: int,
    output_dir: Path,
    on_batch: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Seconds per image of each row in interleaved rounds; kept for the conditions they were measured under.

    Args:
        rows: the first one's trainer and number of images hold for all.
        names: of the rows' folders, which name what is timed.
        rounds: at least 1, after one that warms up.
        output_dir: absolute path; keeps ``timing.json``.
        on_batch: called after every batch.
    """
    key = _key(rows[0], names, rounds)
    kept = read_json(output_dir / TIMING_FILE)
    if kept.get("key") == key:
        return kept["latencies"]
    write_json([row.plain() for row in rows], output_dir / ROWS_FILE)
    plan = rows[0].with_(command=TIME_ROWS, output_dir=str(output_dir), table={"timing_rounds": rounds})
    write_config(plan, output_dir, PLAN_FILE)
    with further_processes(output_dir / PLAN_FILE):
        latencies = time_in_process(plan, on_batch)
    write_json({"key": key, "latencies": latencies}, output_dir / TIMING_FILE)
    return latencies


def _key(first: Settings, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """What kept timings have to be of to serve again."""
    return {
        "rows": list(names),
        "rounds": rounds,
        "trainer": first.plain()["trainer"],
        # A table of fewer images than a batch times fewer, and its folders are those of more.
        "images": min(first.dataset.num_images, first.trainer.batch_size),
        # Faster code is often the reason to run a table again.
        **environment(),
    }


def time_in_process(plan: Settings, on_batch: Callable[[], None] = lambda: None) -> list[list[float]]:
    """The part of :func:`time_rows` that all processes do."""
    output_dir = Path(plan.output_dir)
    plain = json.loads((output_dir / ROWS_FILE).read_text())
    rows = [check_settings(Settings, values) for values in plain]
    first = Session.from_settings(rows[0])
    sessions = [
        first.with_settings(row) if row.model == rows[0].model else Session.from_settings(row) for row in rows
    ]
    measured = measure_interleaved(rows[0], sessions, plan.table.timing_rounds, output_dir, on_batch)
    return [numbers.latencies for numbers in measured]
