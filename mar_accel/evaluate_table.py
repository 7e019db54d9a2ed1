"""Evaluate the rows of a table: ``python -m mar_accel.evaluate_table table.rows=FILE``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("evaluate_table")
def main(settings: Settings) -> None:
    from hydra.core.hydra_config import HydraConfig

    from mar_accel.evaluation.run import evaluate
    from mar_accel.evaluation.table import show_table
    from mar_accel.evaluation.table_run import evaluate_table
    from mar_accel.evaluation.timing import TIME_ROWS, time_in_process

    # Processes of further devices get what they are to help with.
    if settings.command == "evaluate":
        evaluate(settings, [])
    elif settings.command == TIME_ROWS:
        time_in_process(settings)
    else:
        result = evaluate_table(settings, HydraConfig.get().overrides.task)
        show_table(result.rows, result.correlation, result.failures, settings.output_dir)


if __name__ == "__main__":
    main()
