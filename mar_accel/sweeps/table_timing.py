"""Speed of the rows of a table, measured in rounds in which each row samples one batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings
from mar_accel.inference.children import further_processes
from mar_accel.inference.session import Session
from mar_accel.profiling.interleaved import measure_interleaved
from mar_accel.runs.folder import write_config
from mar_accel.runs.record import environment
from mar_accel.utils.json_files import read_json, write_json

# Settings for the processes of further devices, settings of the rows, and the result.
PLAN_FILE, ROWS_FILE, TIMING_FILE = ".timing.yaml", ".timed_rows.json", "timing.json"


def time_rows(
    rows: Sequence[Settings],
    names: Sequence[str],
    rounds: int,
    output_dir: Path,
    on_batch: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Seconds per image of each row in interleaved rounds.

    Earlier timings in ``timing.json`` are reused if their conditions are the same.

    Args:
        rows: settings of the rows; trainer and number of images of the first row apply to all.
        names: folder names of the rows, which identify what is timed.
        rounds: number of rounds after one warm-up round; at least 1.
        output_dir: absolute path of the folder for ``timing.json``.
        on_batch: called after every batch.
    """
    key = _key(rows[0], names, rounds)
    kept = read_json(output_dir / TIMING_FILE)
    if kept.get("key") == key:
        return kept["latencies"]
    write_json([row.plain() for row in rows], output_dir / ROWS_FILE)
    # A file of evaluate would leave out the node table.
    changes = {"output_dir": str(output_dir), "table": {"timing_rounds": rounds}}
    plan = rows[0].with_(command="evaluate_table", **changes)
    write_config(plan, output_dir, PLAN_FILE)
    with further_processes(output_dir / PLAN_FILE, f"{__name__}:time_in_process"):
        latencies = time_in_process(plan, on_batch)
    write_json({"key": key, "latencies": latencies}, output_dir / TIMING_FILE)
    return latencies


def _key(first: Settings, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """The conditions that must be equal for earlier timings to be reused."""
    return {
        "rows": list(names),
        "rounds": rounds,
        "trainer": first.plain()["trainer"],
        # With fewer images than a batch, fewer are timed, yet the folder names stay the same.
        "images": min(first.dataset.num_images, first.trainer.batch_size),
        # The code is part of the conditions, since faster code is often why a table runs again.
        **environment(),
    }


def time_in_process(plan: Settings, on_batch: Callable[[], None] = lambda: None) -> list[list[float]]:
    """The part of :func:`time_rows` that every process runs."""
    output_dir = Path(plan.output_dir)
    plain = json.loads((output_dir / ROWS_FILE).read_text())
    rows = [check_settings(Settings, values) for values in plain]
    first = Session.from_settings(rows[0])
    sessions = [
        first.with_settings(row, rows[0]) if row.model == rows[0].model else Session.from_settings(row)
        for row in rows
    ]
    measured = measure_interleaved(
        rows[0],
        sessions,
        plan.table.timing_rounds,
        output_dir,
        on_batch,
        datasets=[row.dataset for row in rows],
    )
    return [numbers.latencies for numbers in measured]
