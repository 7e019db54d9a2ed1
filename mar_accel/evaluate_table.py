"""Evaluate the rows of a table: ``python -m mar_accel.evaluate_table table.rows=FILE``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("evaluate_table")
def main(settings: Settings) -> None:
    from hydra.core.hydra_config import HydraConfig

    from mar_accel.sweeps.table_run import evaluate_table, show_table

    show_table(evaluate_table(settings, HydraConfig.get().overrides.task), settings.output_dir)


if __name__ == "__main__":
    main()
