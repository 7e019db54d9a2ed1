"""Plans in readable form: a table of AR steps, and the decode order as text or picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.utils.figures import picture_font

Color = tuple[int, int, int]

# Dark to light: later steps are lighter. Also readable in print and for colour-blind readers.
_RAMP: tuple[Color, ...] = ((40, 20, 90), (45, 90, 150), (35, 150, 135), (110, 200, 90), (250, 230, 60))
_CELL, _GAP, _TITLE = 28, 24, 28


def head_evaluations(plan: Plan, step: ARStep) -> int:
    """Head evaluations per image in a step: one per token and timestep. Two branches count once.

    T diffusion steps visit fewer than T timesteps if ``max_timestep`` merges some.
    """
    detail = step.num_detail_tokens
    evaluations = (step.num_tokens - detail) * plan.schedules[step.num_diffusion_steps].num_steps
    if detail:
        evaluations += detail * plan.schedules[step.num_detail_diffusion_steps].num_steps
    return evaluations


def plan_rows(plan: Plan, flops: Sequence[int] | None) -> list[dict[str, float]]:
    """One record per AR step. ``flops`` [K] adds the GFLOPs per image."""
    rows: list[dict[str, float]] = []
    for step in plan.steps:
        row: dict[str, float] = {
            "ar_step": step.index,
            "stage": step.stage,
            "tokens": step.num_tokens,
            "guidance_scale": step.guidance_scale,
            "branches": step.num_branches,
            "diffusion_steps": step.num_diffusion_steps,
            "detail_tokens": step.num_detail_tokens,
            "detail_diffusion_steps": step.num_detail_diffusion_steps,
            "head_evaluations": head_evaluations(plan, step),
        }
        if flops is not None:
            row["gflops"] = flops[step.index] / 1e9
        rows.append(row)
    return rows


def plan_table(rows: Sequence[dict[str, float]], title: str) -> Table:
    """Format the records of :func:`plan_rows` as a table with totals at the bottom."""
    table = Table(title=title, title_justify="left", show_footer=True)
    with_flops = "gflops" in rows[0]
    total = {key: sum(row[key] for row in rows) for key in ("tokens", "detail_tokens", "head_evaluations")}
    columns = [
        ("AR step", f"{len(rows)}"),
        ("stage", ""),
        ("tokens", f"{total['tokens']:.0f}"),
        ("w", ""),
        ("T", ""),
        ("detail tokens", f"{total['detail_tokens']:.0f}"),
        ("head evaluations", f"{total['head_evaluations']:.0f}"),
    ]
    if with_flops:
        columns.append(("GFLOPs", _giga(sum(row["gflops"] for row in rows))))
    for name, footer in columns:
        table.add_column(name, footer=footer, justify="right")
    for row in rows:
        detail = (
            f"{row['detail_tokens']} at T={row['detail_diffusion_steps']}" if row["detail_tokens"] else ""
        )
        cells = [str(row["ar_step"]), str(row["stage"]), str(row["tokens"]), f"{row['guidance_scale']:.2f}"]
        cells += [str(row["diffusion_steps"]), detail, str(row["head_evaluations"])]
        table.add_row(*cells, *([_giga(row["gflops"])] if with_flops else []))
    return table


def _giga(gflops: float) -> str:
    return f"{gflops:.4g}" if gflops < 1000 else f"{gflops:.0f}"


def step_grid(plan: Plan, order: Tensor, stages: bool = False) -> list[list[int]]:
    """AR step (or stage) that decodes each token, as rows of the grid, for one decode order [L]."""
    (height, width), values = plan.grid, [0] * plan.num_tokens
    for step in plan.steps:
        for position in order[step.start : step.stop].tolist():
            values[position] = step.stage if stages else step.index
    return [values[row * width : (row + 1) * width] for row in range(height)]


def grid_text(plan: Plan, order: Tensor) -> Text:
    """AR step of each token, as text for the terminal. Later steps have a lighter background."""
    digits, lines = len(str(len(plan.steps) - 1)), []
    for row in step_grid(plan, order):
        line = Text()
        for value in row:
            ground, ink = _colors(value, len(plan.steps))
            line.append(f" {value:>{digits}} ", style=f"rgb{_css(ink)} on rgb{_css(ground)}")
        lines.append(line)
    return Text("\n").join(lines)


def grid_picture(plan: Plan, order: Tensor) -> Image.Image:
    """Picture of the AR step of each token. A second panel shows the stages if there are several."""
    num_stages = plan.steps[-1].stage + 1
    panels = [_panel(f"AR step (of {len(plan.steps)})", step_grid(plan, order), len(plan.steps))]
    if num_stages > 1:
        panels.append(_panel(f"stage (of {num_stages})", step_grid(plan, order, stages=True), num_stages))
    width = sum(panel.width for panel in panels) + _GAP * (len(panels) + 1)
    picture = Image.new("RGB", (width, panels[0].height + 2 * _GAP), "white")
    left = _GAP
    for panel in panels:
        picture.paste(panel, (left, _GAP))
        left += panel.width + _GAP
    return picture


def _panel(title: str, values: list[list[int]], count: int) -> Image.Image:
    width = max(len(values[0]) * _CELL, 160)
    panel = Image.new("RGB", (width, len(values) * _CELL + _TITLE), "white")
    draw = ImageDraw.Draw(panel)
    draw.text((0, _TITLE // 2), title, fill="black", font=picture_font(14), anchor="lm")
    font = picture_font(11)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            ground, ink = _colors(value, count)
            left, top = j * _CELL, _TITLE + i * _CELL
            draw.rectangle((left, top, left + _CELL - 2, top + _CELL - 2), fill=ground)
            draw.text((left + _CELL // 2, top + _CELL // 2), str(value), fill=ink, font=font, anchor="mm")
    return panel


def _colors(value: int, count: int) -> tuple[Color, Color]:
    """Background and text colour of a cell. The background depends on value / (count − 1)."""
    place = value / max(1, count - 1) * (len(_RAMP) - 1)
    lower = min(int(place), len(_RAMP) - 2)
    share = place - lower
    red, green, blue = (
        round(a + share * (b - a)) for a, b in zip(_RAMP[lower], _RAMP[lower + 1], strict=True)
    )
    light = 0.3 * red + 0.6 * green + 0.1 * blue > 120
    return (red, green, blue), ((0, 0, 0) if light else (255, 255, 255))


def _css(color: Color) -> str:
    return f"({color[0]},{color[1]},{color[2]})"
