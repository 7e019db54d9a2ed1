"""The collected table as text, CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mar_accel.metrics.catalogue import Metric
from mar_accel.sweeps.baselines import not_compared
from mar_accel.sweeps.collected_table import FLOPS, Collected, CollectedRow
from mar_accel.sweeps.numbers import metric_of
from mar_accel.sweeps.swept_keys import shown_value
from mar_accel.utils import latex, markdown
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.whole_files import written_whole

ABOUT_ERRORS = (
    "± is one standard error: over the seeds if a row has several (then σ is the deviation between seeds), "
    "else as the run estimates it; for KID and IS it is the deviation over subsets. Shares have their 95 % "
    "Wilson interval, speeds their range."
)


def shown_metrics(collected: Collected) -> list[Metric]:
    """The metrics that tables show, in the order of the columns; files have all numbers."""
    return [metric for metric in map(metric_of, collected.metrics) if metric.column]


def heading(collected: Collected) -> list[str]:
    """Names of the columns."""
    seeds = ["seeds"] if _has_several_seeds(collected) else []
    ratios = [name for name, _ in _ratio_columns(collected)]
    names = [*collected.keys] or ["setting"]
    return [*names, *seeds, *(metric.column for metric in shown_metrics(collected)), *ratios]


def cells(collected: Collected, row: CollectedRow) -> list[str]:
    """The cells of a row: its values, and its numbers with their errors. A missing one is a dash."""
    values = [shown_value(row.values[key]) if key in row.values else "–" for key in collected.keys]
    seeds = [str(len(row.seeds))] if _has_several_seeds(collected) else []
    numbers = [
        row.numbers[metric.key].text(metric) if metric.key in row.numbers else "–"
        for metric in shown_metrics(collected)
    ]
    return [*(values or [row.name]), *seeds, *numbers, *_ratios(collected, row)]


def notes(collected: Collected) -> list[str]:
    """What a reader of the table must know."""
    baseline = f"Ratios: how many times as much {collected.baseline_name} needs."
    ratios = [baseline] if collected.ratio_keys else []
    return [ABOUT_ERRORS, *ratios, *not_compared(collected), *collected.notes]


def write_tables(
    collected: Collected, folder: Path, records: Sequence[Mapping[str, Any]] | None = None
) -> list[Path]:
    """Write ``table.csv`` with all numbers, and ``table.md`` and ``table.tex`` with the shown ones.

    Args:
        collected: the table.
        folder: an existing folder.
        records: the rows of ``table.csv``. None: those of :func:`csv_rows`.

    Returns:
        The files.
    """
    below = notes(collected)
    names, rows = heading(collected), [cells(collected, row) for row in collected.rows]
    text = {
        "table.md": markdown.table(names, rows) + "\n" + "\n".join(f"- {note}" for note in below) + "\n",
        "table.tex": latex.table(names, rows, left=len(collected.keys) or 1, note="\n".join(below)),
    }
    write_csv(csv_rows(collected) if records is None else records, folder / "table.csv")
    for name, content in text.items():
        with written_whole(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [folder / name for name in ("table.csv", *text)]


def csv_rows(collected: Collected) -> list[dict[str, Any]]:
    """Every number of every row with its errors, under one header; a missing one is None."""
    columns: dict[str, None] = {}
    rows = []
    for row in collected.rows:
        # A swept key may also be a number of the record; the config's value comes first.
        values = {key: shown_value(row.values[key]) if key in row.values else None for key in collected.keys}
        numbers = _numbers(collected, row)
        rows.append(
            {
                **values,
                "seeds": " ".join(map(str, row.seeds)),
                **{key: value for key, value in numbers.items() if key not in values},
                "folders": " ".join(str(run.folder) for run in row.runs),
            }
        )
        columns |= dict.fromkeys(rows[-1])
    ordered = [*(key for key in columns if key != "folders"), "folders"]
    return [{key: row.get(key) for key in ordered} for row in rows]


def _numbers(collected: Collected, row: CollectedRow) -> dict[str, float]:
    found: dict[str, float | None] = {}
    for key in collected.metrics:
        if number := row.numbers.get(key):
            found |= {key: number.value, f"{key}_error": number.error, f"{key}_low": number.low}
            found |= {f"{key}_high": number.high, f"{key}_spread": number.spread}
    for name, key in _ratio_columns(collected):
        if ratio := collected.ratio(row, key):
            short = name.partition(" ")[0].lower()
            found |= {f"{short}_ratio": ratio.value, f"{short}_ratio_error": ratio.error}
    return {key: value for key, value in found.items() if value is not None}


def _has_several_seeds(collected: Collected) -> bool:
    return any(len(row.seeds) > 1 for row in collected.rows)


def _ratio_columns(collected: Collected) -> list[tuple[str, str]]:
    """Headings and keys of the ratios to the baseline that any row has."""
    return [("FLOPs ratio" if key == FLOPS else "time ratio", key) for key in collected.ratio_keys]


def _ratios(collected: Collected, row: CollectedRow) -> list[str]:
    texts = []
    for _, key in _ratio_columns(collected):
        ratio = collected.ratio(row, key)
        error = "" if ratio is None or ratio.error is None else f" ± {ratio.error:.2f}"
        texts.append("–" if ratio is None else f"{ratio.value:.2f}{error}")
    return texts
