"""Evaluate the rows of a table: ``python -m mar_accel.evaluate_table table.rows=FILE``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("evaluate_table")
def main(settings: Settings) -> None:
    from hydra.core.hydra_config import HydraConfig

    from mar_accel.evaluation.table import show_table
    from mar_accel.evaluation.table_run import evaluate_table

    result = evaluate_table(settings, HydraConfig.get().overrides.task)
    show_table(result.rows, result.correlation, result.failures, settings.output_dir)


if __name__ == "__main__":
    main()
