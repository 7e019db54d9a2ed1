"""Figures of redundancy as in the LazyMAR paper, as CSV and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mar_accel.analysis.head_reuse import ALL, HeadReuse
from mar_accel.analysis.redundancy import CATEGORIES, RedundancyStatistics
from mar_accel.errors import ConfigError
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.whole_files import written_whole


def check_matplotlib() -> None:
    """Raise ConfigError if matplotlib is missing, before a long run starts."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the figures need matplotlib; run pip install -e '.[eval]' in the checkout."
        ) from error


def write_figures(statistics: RedundancyStatistics, reuse: HeadReuse | None, output_dir: Path) -> list[Path]:
    """Write each figure as PNG with its numbers as CSV.

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
    _draw_distances(distances, pictures[0])
    _draw_mse(mse, pictures[1])
    _draw_matrices(matrices, pictures[2])
    rows = [] if reuse is None else reuse.rows()
    if rows:
        write_csv(rows, output_dir / "head_reuse.csv")
        pictures.append(output_dir / "head_reuse.png")
        _draw_reuse(rows, pictures[-1])
    return pictures


def _write_matrix(matrix: Tensor, path: Path) -> None:
    with written_whole(path) as temporary, temporary.open("w") as file:
        np.savetxt(file, matrix.numpy(), fmt="%.6f", delimiter=",")


def _draw_distances(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    kinds = (
        ("output_distance", "last decoder block's output"),
        ("value_distance", "values in the pruning block"),
    )
    for axis, (key, title) in zip(figure.subplots(1, 2), kinds, strict=True):
        for category in CATEGORIES:
            own = [row for row in rows if row["category"] == category]
            axis.plot([row["step"] for row in own], [row[key] for row in own], label=category)
        axis.set(xlabel="AR step", ylabel="cosine distance to the previous step", title=title, yscale="log")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(CATEGORIES))
    figure.savefig(path, dpi=120)


def _draw_mse(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name in rows[0]:
        if name != "step":
            axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name)
    axis.set(xlabel="AR step", ylabel="mean squared difference to the previous step", yscale="log")
    axis.legend()
    figure.savefig(path, dpi=120)


def _draw_matrices(matrices: Mapping[str, Tensor], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(matrices), 4.5), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (name, matrix) in zip(axes, matrices.items(), strict=True):
        image = axis.imshow(matrix.numpy(), origin="lower")
        axis.set(xlabel="AR step", ylabel="AR step", title=f"cosine similarity of the {name}")
        figure.colorbar(image, ax=axis)
    figure.savefig(path, dpi=120)


def _draw_reuse(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for number, length in enumerate(sorted({row["diffusion_steps"] for row in rows})):
        own = [row for row in rows if row["diffusion_steps"] == length and row["part"] != ALL]
        (whole,) = (row["mse"] for row in rows if row["diffusion_steps"] == length and row["part"] == ALL)
        middles = [(row["first_timestep"] + row["last_timestep"]) / 2 for row in own]
        axis.plot(
            middles, [row["mse"] for row in own], "o-", color=f"C{number}", label=f"T = {length}, one stretch"
        )
        axis.axhline(whole, color=f"C{number}", linestyle="--", label=f"T = {length}, all")
    axis.set(xlabel="timestep of the reused stretch (0: end of the chain)", yscale="log")
    axis.set_ylabel("mean squared change of the token")
    axis.legend()
    figure.savefig(path, dpi=120)
