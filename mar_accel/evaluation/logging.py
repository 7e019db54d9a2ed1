"""What a logger gets from an evaluation: config, numbers, curves over the AR steps, pictures, a table."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from mar_accel.evaluation.result import Evaluation


def log_evaluation(
    config: DictConfig, evaluation: Evaluation, pictures: dict[str, tuple[Path, str]], output_dir: Path
) -> None:
    pass


def log_table(config, results, output_dir) -> None:  # type: ignore[no-untyped-def]
    pass
