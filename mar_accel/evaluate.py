"""Evaluate a config: ``python -m mar_accel.evaluate sampler=gtr cache=lazymar``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.data.run_files import METRICS_FILE
from mar_accel.runs.entry import command


@command("evaluate", finished_file=METRICS_FILE)
def main(settings: Settings) -> float | None:
    from rich.console import Console

    from mar_accel.evaluation.result import result_table
    from mar_accel.evaluation.run import evaluate

    evaluation = evaluate(settings)
    if evaluation is None:
        return None
    console = Console()
    title = settings.evaluate.images or f"{settings.model.name}, seed {settings.seed}"
    console.print(result_table(title, evaluation))
    for warning in evaluation.warnings:
        console.print(f"note: {warning}", style="yellow", markup=False)
    console.print(f"Results: {settings.output_dir}", markup=False, soft_wrap=True)
    return evaluation.metrics.get(settings.evaluate.objectives[0])


if __name__ == "__main__":
    main()
