"""Speed of the rows of a table: rounds in which every row samples one batch in turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mar_accel.evaluation.sampling import with_sampling
from mar_accel.generate import build_module
from mar_accel.inference.processes import further_processes
from mar_accel.inference.trainer import build_trainer
from mar_accel.profiling.interleaved import images_per_round, measure_interleaved
from mar_accel.runs.record import git_revision, write_json

# What a config for this says under "command", for the processes of further devices.
TIME_ROWS = "time_rows"


def time_rows(
    configs: Sequence[DictConfig],
    names: Sequence[str],
    rounds: int,
    output_dir: Path,
    on_batch: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Seconds per image of each row in interleaved rounds; kept, so that a table is timed once per revision.

    Args:
        configs: of the rows; the first one's batch size and devices hold for all.
        names: of the rows' folders, which name what is timed.
        rounds: at least 1, beside one that warms up.
        output_dir: absolute path; keeps ``timing.json``.
        on_batch: called after every batch.
    """
    key = _key(configs[0], names, rounds, output_dir)
    file = output_dir / "timing.json"
    if file.is_file():
        kept = json.loads(file.read_text())
        if kept["key"] == key:
            return kept["latencies"]
    plan = OmegaConf.create({"command": TIME_ROWS, "output_dir": str(output_dir), "rounds": rounds})
    plan.rows = [OmegaConf.to_container(config, resolve=True) for config in configs]
    OmegaConf.save(plan, output_dir / "timing.yaml")
    with further_processes(output_dir / "timing.yaml"):
        latencies = time_plan(plan, on_batch)
    write_json({"key": key, "latencies": latencies}, file)
    return latencies


def _key(first: DictConfig, names: Sequence[str], rounds: int, output_dir: Path) -> dict[str, Any]:
    """What kept timings have to be of to serve again."""
    return {
        "rows": list(names),
        "rounds": rounds,
        "trainer": OmegaConf.to_container(first.trainer, resolve=True),
        # A table of fewer images than a batch times so many only, and its folders are those of more.
        "images": images_per_round(first, build_trainer(first, [], output_dir)),
        # Faster code is often the reason to run a table again.
        "revision": git_revision(),
    }


def time_plan(plan: DictConfig, on_batch: Callable[[], None] = lambda: None) -> list[list[float]]:
    """The part of :func:`time_rows` that all processes do."""
    first = build_module(plan.rows[0])
    modules = [
        with_sampling(first, row) if row.model == plan.rows[0].model else build_module(row)
        for row in plan.rows
    ]
    measured = measure_interleaved(plan.rows[0], modules, plan.rounds, Path(plan.output_dir), on_batch)
    return [numbers.latencies for numbers in measured]
