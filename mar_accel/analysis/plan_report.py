"""The plan of a config, as files and on the terminal, before any sampling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from torch import Tensor

from mar_accel.analysis.plan_view import grid_picture, grid_text, plan_rows, plan_table
from mar_accel.config.settings import Settings
from mar_accel.data.run_files import RECORD_FILE
from mar_accel.inference.build import build_sampling
from mar_accel.profiling.flops import FlopCount, count_flops
from mar_accel.runs.output_dir import prepare_output_dir, require_folder
from mar_accel.runs.record import run_record
from mar_accel.sampling.noise import Stream, sample_generator
from mar_accel.sampling.plan import Plan
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.images import save_png
from mar_accel.utils.json_files import write_json
from mar_accel.utils.progress import busy

TABLE_FILE, PICTURE_FILE = "plan.csv", "order.png"


def show_plan(settings: Settings) -> Plan:
    """Print the plan of a config, and write it to the run folder.

    The files are ``plan.csv``, ``order.png`` and ``run.json``.
    The order is that of sample 0 with the config's seed.

    Raises:
        ConfigError: sampler, cache and model cannot be combined. Nothing is written in this case.
    """
    architecture, sampler, cache, plan = build_sampling(settings)
    require_folder(Path(settings.output_dir).absolute())
    with busy("counting FLOPs"):
        counted = count_flops(architecture, sampler, cache, plan) if settings.plan.flops else None
    output_dir = prepare_output_dir(Path(settings.output_dir).absolute())
    rows = plan_rows(plan, counted.per_step if counted else None)
    order = sampler.order.permutation(plan.grid, sample_generator(settings.seed, 0, Stream.ORDER))
    _write(settings, plan, order, rows, output_dir)
    _show(settings, plan, order, rows, counted)
    return plan


def _show(
    settings: Settings,
    plan: Plan,
    order: Tensor,
    rows: Sequence[dict[str, float]],
    counted: FlopCount | None,
) -> None:
    # Lines are not cut if the terminal is narrow or missing.
    console = Console(soft_wrap=True)
    clip = "none" if plan.max_timestep is None else plan.max_timestep
    title = f"{settings.model.name}, grid {plan.grid[0]}x{plan.grid[1]}, max_timestep {clip}"
    console.print(plan_table(rows, title), crop=False)
    if counted:
        parts = {"encoder": counted.encoder, "decoder": counted.decoder, "head": counted.head}
        shares = ", ".join(f"{name} {flops / 1e12:.4g}" for name, flops in parts.items())
        console.print(f"TFLOPs per image: {counted.total / 1e12:.4g} ({shares})")
    console.print(f"AR step of each token of sample 0, seed {settings.seed}:")
    console.print(grid_text(plan, order), crop=False)
    if settings.dataset.images is not None:
        console.print("This is the plan of a whole image; dataset.mask leaves the tokens that it masks.")
    console.print(f"Table and picture: {Path(settings.output_dir).absolute()}")


def _write(
    settings: Settings, plan: Plan, order: Tensor, rows: Sequence[dict[str, float]], output_dir: Path
) -> None:
    save_png(grid_picture(plan, order), output_dir / PICTURE_FILE)
    write_csv(rows, output_dir / TABLE_FILE)
    totals = {key: sum(row[key] for row in rows) for key in ("head_evaluations", "gflops") if key in rows[0]}
    write_json(run_record(settings, num_ar_steps=len(rows), **totals), output_dir / RECORD_FILE)
