"""Correlation between the fidelity of few images and the change of the FID."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

from mar_accel.evaluation.table import RowResult
from mar_accel.runs.folder import CONFIG_FILE
from mar_accel.utils.csv_files import write_csv

PREDICTORS = {"psnr": "PSNR to the first row (dB)", "latent_mse": "latent MSE to the first row"}
SMALLEST = 3
ROWS_FILE, SUMMARY_FILE, PLOT_FILE = "correlation.csv", "correlation_summary.csv", "correlation.png"


def write_correlation(results: Sequence[RowResult], output_dir: Path) -> dict[str, float]:
    """Write ``correlation.csv``, ``correlation_summary.csv`` and ``correlation.png``, or remove old ones.

    Coefficients are given for all rows, and for the rows with the decode order of the first row.
    With another order, samples may differ from those of the first row without being worse.

    Returns:
        Spearman and Pearson coefficients over the rows after the first.
        Empty for fewer than three such rows, or if nothing varies.
    """
    rows = [_correlation_row(result, results[0]) for result in results[1:]]
    rows = [row for row in rows if None not in row.values()]
    groups = {"": rows, "_same_order": [row for row in rows if row["same_order"]]}
    coefficients: dict[str, float] = {}
    for suffix, members in groups.items():
        if len(members) >= SMALLEST and (suffix == "" or len(members) < len(rows)):
            coefficients |= {f"{name}{suffix}": value for name, value in _coefficients(members).items()}
    # Files of an earlier table could be mistaken for files of this one.
    for name in (ROWS_FILE, SUMMARY_FILE, PLOT_FILE):
        (output_dir / name).unlink(missing_ok=True)
    if not coefficients:
        return {}
    write_csv(rows, output_dir / ROWS_FILE)
    summary = [{"coefficient": name, "value": value} for name, value in coefficients.items()]
    write_csv(summary, output_dir / SUMMARY_FILE)
    _plot(rows, coefficients, output_dir / PLOT_FILE)
    return coefficients


def _coefficients(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    change = torch.tensor([row["fid_change"] for row in rows], dtype=torch.float64)
    coefficients = {}
    for key in PREDICTORS:
        values = torch.tensor([row[key] for row in rows], dtype=torch.float64)
        if values.std() > 0 and change.std() > 0:
            coefficients[f"spearman_{key}"] = float(spearman_corrcoef(values, change))
            coefficients[f"pearson_{key}"] = float(pearson_corrcoef(values, change))
    return coefficients


def _correlation_row(result: RowResult, first: RowResult) -> dict[str, Any]:
    fid, first_fid = result.metrics.get("fid"), first.metrics.get("fid")
    return {
        "name": result.name,
        "same_order": _order(result) == _order(first),
        "fidelity_images": result.metrics.get("fidelity_images"),
        "psnr": result.metrics.get("psnr"),
        "latent_mse": result.metrics.get("latent_mse"),
        "fid": fid,
        "fid_change": None if fid is None or first_fid is None else fid - first_fid,
    }


def _order(result: RowResult) -> Any:
    return OmegaConf.load(result.folder / CONFIG_FILE).sampler.order


def _plot(rows: Sequence[dict[str, Any]], coefficients: dict[str, float], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axis, (key, title) in zip(figure.subplots(1, 2), PREDICTORS.items(), strict=True):
        for same, marker, label in ((True, "o", "same decode order"), (False, "s", "another order")):
            chosen = [row for row in rows if row["same_order"] == same]
            if chosen:
                values = [row[key] for row in chosen], [row["fid_change"] for row in chosen]
                axis.scatter(*values, marker=marker, label=label)
        axis.axhline(0, color="grey", linewidth=0.5)
        axis.legend(fontsize=7)
        rank = coefficients.get(f"spearman_{key}")
        axis.set(
            xlabel=f"{title}, {rows[0]['fidelity_images']} images",
            ylabel="FID − FID of the first row",
            title="" if rank is None else f"rank correlation {rank:.2f}",
        )
        _label(axis, rows, key)
    figure.savefig(path, dpi=120)


def _label(axis: Any, rows: Sequence[dict[str, Any]], key: str) -> None:
    """Write names beside the points, outliers first; a name without a free place is left out."""
    axis.figure.draw_without_rendering()
    middle = sum(axis.get_xlim()) / 2
    usual = statistics.median(row["fid_change"] for row in rows)
    placed: list[Any] = []
    for row in sorted(rows, key=lambda row: -abs(row["fid_change"] - usual)):
        inwards = -1 if row[key] > middle else 1
        for side, height in ((inwards, 0), (inwards, 8), (inwards, -8), (-inwards, 0)):
            label = axis.annotate(
                row["name"],
                (row[key], row["fid_change"]),
                xytext=(5 * side, height),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=7,
            )
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in placed):
                placed.append(box)
                break
            label.remove()
