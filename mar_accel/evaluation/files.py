"""Writes the files of an evaluation: metrics.json, tables as CSV, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mar_accel.config.settings import DatasetSettings
from mar_accel.data.run_files import METRICS_FILE
from mar_accel.evaluation.pictures import (
    FIDELITY_TITLES,
    captioned_grid,
    comparison_picture,
    draw_distributions,
)
from mar_accel.evaluation.result import STEPS_FILE, Comparison, Evaluation
from mar_accel.evaluation.token_files import remove_batches, write_tokens
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.figures import TEXT, has_matplotlib, save_figure
from mar_accel.utils.images import save_png
from mar_accel.utils.json_files import write_json

SAMPLES, COMPARISON, DISTRIBUTION = "samples.png", "comparison.png", "fidelity.png"
FIDELITY_FILE = "fidelity.csv"


def write_metrics(evaluation: Evaluation, output_dir: Path, **extra: Any) -> None:
    """Write metrics.json. It marks the run as finished, so it must be written last.

    Args:
        evaluation: the evaluation to write.
        output_dir: the run folder.
        extra: further keys at the top level.
    """
    write_json(evaluation.record(**extra), output_dir / METRICS_FILE)
    remove_batches(output_dir)


def write_evaluation(
    evaluation: Evaluation, output_dir: Path, dataset: DatasetSettings
) -> dict[str, tuple[Path, str]]:
    """Write everything except the metrics, and remove files of an earlier evaluation that this one lacks.

    Args:
        evaluation: the evaluation to write.
        output_dir: the run folder.
        dataset: names the labels of the samples.

    Returns:
        File and caption of each picture by name.
    """
    pictures = {}
    if evaluation.samples is not None:
        images, labels = evaluation.samples
        captions = [
            f"{i}: {dataset.name_of(label)}" if label >= 0 else str(i)
            for i, label in enumerate(labels.tolist())
        ]
        save_png(captioned_grid(images, captions), output_dir / SAMPLES)
        what = "classes" if dataset.prompts is None else "prompts"
        pictures["samples"] = (output_dir / SAMPLES, f"samples 0 to {len(images) - 1}, with their {what}")
    if evaluation.tokens is not None and len(evaluation.tokens):
        write_tokens(evaluation.tokens, output_dir)
    if evaluation.steps:
        write_csv(evaluation.steps, output_dir / STEPS_FILE)
    else:
        (output_dir / STEPS_FILE).unlink(missing_ok=True)
    for name in (FIDELITY_FILE, COMPARISON, DISTRIBUTION, str(Path(DISTRIBUTION).with_suffix(".svg"))):
        (output_dir / name).unlink(missing_ok=True)
    if evaluation.comparison is not None:
        pictures |= _write_comparison(evaluation.comparison, output_dir)
    return pictures


def _write_comparison(comparison: Comparison, output_dir: Path) -> dict[str, tuple[Path, str]]:
    agreement = comparison.fidelity
    mse = agreement.latent_mse.tolist() if agreement.latent_mse is not None else [None] * len(agreement.psnr)
    psnrs, ssims = agreement.psnr.tolist(), agreement.ssim.tolist()
    columns = zip(comparison.keys, comparison.labels.tolist(), psnrs, ssims, mse, strict=True)
    rows = [
        {"index": index, "label": label, "psnr": psnr, "ssim": ssim, "latent_mse": error}
        for index, label, psnr, ssim, error in columns
    ]
    write_csv(rows, output_dir / FIDELITY_FILE)
    save_png(comparison_picture(comparison), output_dir / COMPARISON)
    pictures = {
        "comparison": (output_dir / COMPARISON, "accelerated, unaccelerated, difference (same seed)"),
    }
    if has_matplotlib():
        shown = sum(rows[0][name] is not None for name in FIDELITY_TITLES)
        file = output_dir / DISTRIBUTION
        save_figure(file, TEXT / 3 * shown, 2.2, lambda figure: draw_distributions(figure, rows))
        pictures["fidelity"] = (file, "per-image fidelity to the unaccelerated images")
    return pictures
