"""Figures of redundancy as in the LazyMAR paper, as CSV, PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mar_accel.analysis.head_reuse import ALL, HeadReuse
from mar_accel.analysis.redundancy import CATEGORIES, RedundancyStatistics
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.figures import COLUMN, PALETTE, SEQUENTIAL, TEXT, save_figure
from mar_accel.utils.whole_files import written_whole


def write_figures(statistics: RedundancyStatistics, reuse: HeadReuse | None, output_dir: Path) -> list[Path]:
    """Write each figure as PNG and SVG, with its numbers as CSV.

    Args:
        statistics: redundancy statistics of all batches.
        reuse: change of tokens by reuse in the head; None: this figure is left out.
        output_dir: folder for the files.

    Returns:
        Paths of the PNG files.
    """
    distances, mse, matrices = statistics.distance_rows(), statistics.mse_rows(), statistics.matrices()
    write_csv(distances, output_dir / "token_distance.csv")
    write_csv(mse, output_dir / "branch_mse.csv")
    for name, matrix in matrices.items():
        _write_matrix(matrix, output_dir / f"step_similarity_{name}.csv")
    pictures = [output_dir / f"{name}.png" for name in ("token_distance", "branch_mse", "step_similarity")]
    save_figure(pictures[0], TEXT, 2.8, lambda figure: _draw_distances(figure, distances))
    save_figure(pictures[1], COLUMN, 2.6, lambda figure: _draw_mse(figure, mse))
    save_figure(pictures[2], TEXT, 2.9, lambda figure: _draw_matrices(figure, matrices))
    rows = [] if reuse is None else reuse.rows()
    if rows:
        write_csv(rows, output_dir / "head_reuse.csv")
        pictures.append(output_dir / "head_reuse.png")
        save_figure(pictures[-1], COLUMN, 2.6, lambda figure: _draw_reuse(figure, rows))
    return pictures


def _write_matrix(matrix: Tensor, path: Path) -> None:
    with written_whole(path) as temporary, temporary.open("w") as file:
        np.savetxt(file, matrix.numpy(), fmt="%.6f", delimiter=",")


def _draw_distances(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    kinds = (
        ("output_distance", "last decoder block's output"),
        ("value_distance", "values in the pruning block"),
    )
    for axis, (key, title) in zip(figure.subplots(1, 2), kinds, strict=True):
        for category in CATEGORIES:
            own = [row for row in rows if row["category"] == category]
            axis.plot([row["step"] for row in own], [row[key] for row in own], label=category)
        axis.set(xlabel="AR step", ylabel="cosine distance to the previous step", title=title, yscale="log")
        _whole_steps(axis.xaxis)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(CATEGORIES))


def _draw_mse(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    axis = figure.subplots()
    for name in rows[0]:
        if name != "step":
            axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name)
    axis.set(xlabel="AR step", ylabel="mean squared change per AR step", yscale="log")
    _whole_steps(axis.xaxis)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _draw_matrices(figure: Any, matrices: Mapping[str, Tensor]) -> None:
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (name, matrix) in zip(axes, matrices.items(), strict=True):
        image = axis.imshow(matrix.numpy(), origin="lower", cmap=SEQUENTIAL)
        axis.set(xlabel="AR step", ylabel="AR step", title=f"{name} of the last decoder block")
        _whole_steps(axis.xaxis)
        _whole_steps(axis.yaxis)
        figure.colorbar(image, ax=axis, label="cosine similarity", shrink=0.85)


def _draw_reuse(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    axis = figure.subplots()
    for number, length in enumerate(sorted({row["diffusion_steps"] for row in rows})):
        color = PALETTE[number % len(PALETTE)]
        own = [row for row in rows if row["diffusion_steps"] == length and row["part"] != ALL]
        (whole,) = (row["mse"] for row in rows if row["diffusion_steps"] == length and row["part"] == ALL)
        middles = [(row["first_timestep"] + row["last_timestep"]) / 2 for row in own]
        axis.plot(middles, [row["mse"] for row in own], "o-", color=color, label=f"T = {length}, one stretch")
        axis.axhline(whole, color=color, linestyle="--", label=f"T = {length}, all stretches")
    axis.set(xlabel="timestep of the reused stretch (0: end of the chain)", yscale="log")
    axis.set_ylabel("mean squared change of the token")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _whole_steps(axis: Any) -> None:
    """Ticks at whole numbers alone: half an AR step does not exist."""
    axis.get_major_locator().set_params(integer=True)
