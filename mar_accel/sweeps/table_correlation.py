"""Correlation between the fidelity of few images and the change of the FID."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

from mar_accel.data.run_files import CONFIG_FILE
from mar_accel.sweeps.table_result import RowResult
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.figures import TEXT, has_matplotlib, remove_figure, save_figure
from mar_accel.utils.label_places import place_labels

PREDICTORS = {"psnr": "PSNR to the first row (dB)", "latent_mse": "latent MSE to the first row"}
SMALLEST = 3
# With more rows than this, lines to names further away would cross each other.
_MOST_FAR_NAMES = 15
ROWS_FILE, SUMMARY_FILE, PLOT_FILE = "correlation.csv", "correlation_summary.csv", "correlation.png"


def write_correlation(results: Sequence[RowResult], output_dir: Path) -> dict[str, float]:
    """Write ``correlation.csv``, ``correlation_summary.csv`` and the figure, or remove old ones.

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
    for name in (ROWS_FILE, SUMMARY_FILE):
        (output_dir / name).unlink(missing_ok=True)
    remove_figure(output_dir / PLOT_FILE)
    if not coefficients:
        return {}
    write_csv(rows, output_dir / ROWS_FILE)
    summary = [{"coefficient": name, "value": value} for name, value in coefficients.items()]
    write_csv(summary, output_dir / SUMMARY_FILE)
    if has_matplotlib():
        save_figure(output_dir / PLOT_FILE, TEXT, 3.2, lambda figure: _draw(figure, rows, coefficients))
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


def _draw(figure: Any, rows: Sequence[dict[str, Any]], coefficients: dict[str, float]) -> None:
    for axis, (key, title) in zip(figure.subplots(1, 2), PREDICTORS.items(), strict=True):
        for same, marker, label in ((True, "o", "same decode order"), (False, "s", "another order")):
            chosen = [row for row in rows if row["same_order"] == same]
            if chosen:
                values = [row[key] for row in chosen], [row["fid_change"] for row in chosen]
                axis.scatter(*values, s=14, marker=marker, label=label)
        axis.axhline(0, color="grey", linewidth=0.5, zorder=0)
        rank = coefficients.get(f"spearman_{key}")
        axis.set(
            xlabel=f"{title}, {rows[0]['fidelity_images']} images",
            ylabel="FID − FID of the first row",
            title="" if rank is None else f"Spearman's rank correlation {rank:.2f}".replace("-", "−"),
        )
        if key == "latent_mse" and min(row[key] for row in rows) > 0:
            # Close variants differ by factors.
            axis.set_xscale("log")
        axis.margins(0.08)
    axes = figure.axes
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    # The layout has to be final before names are placed in pixels.
    figure.draw_without_rendering()
    for axis, key in zip(axes, PREDICTORS, strict=True):
        _name_points(axis, rows, key)


def _name_points(axis: Any, rows: Sequence[dict[str, Any]], key: str) -> None:
    """Write names beside the points, outliers first; a name without a free place is left out.

    ``correlation.csv`` has all names.
    """
    size, figure = 6, axis.figure
    values = [(row[key], row["fid_change"]) for row in rows]
    points = [tuple(point) for point in axis.transData.transform(values)]
    texts = [axis.text(0, 0, row["name"], fontsize=size) for row in rows]
    boxes = [text.get_window_extent() for text in texts]
    for text in texts:
        text.remove()
    usual = statistics.median(row["fid_change"] for row in rows)
    order = sorted(range(len(rows)), key=lambda number: -abs(rows[number]["fid_change"] - usual))
    gap = 4 * figure.dpi / 72
    area = tuple(axis.get_window_extent().extents)
    height = max(box.height for box in boxes)
    places = place_labels(points, [box.width for box in boxes], height, area, order, gap)
    for row, value, place in zip(rows, values, places, strict=True):
        if place is None or (place.far and len(rows) > _MOST_FAR_NAMES):
            continue
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": "grey", "shrinkA": 0, "shrinkB": 1}
        axis.annotate(
            row["name"],
            value,
            xytext=axis.transData.inverted().transform((place.x, place.y)),
            ha="left" if place.side == "right" else "right",
            va="center",
            fontsize=size,
            arrowprops=line if place.far else None,
        )
