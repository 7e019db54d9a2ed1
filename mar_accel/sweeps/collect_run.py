"""A run of ``collect``: the table of a folder of runs, on the terminal and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.runs.output_dir import prepare_output_dir
from mar_accel.sweeps.collected import collect
from mar_accel.sweeps.collected_table import Collected
from mar_accel.sweeps.pair_files import ABOUT, paired_cells, paired_heading, worst_lines, write_pairs
from mar_accel.sweeps.pairs import PairedRow, compare_with_baseline, with_pairs
from mar_accel.sweeps.tables import cells, heading, notes, write_tables
from mar_accel.utils.terminal import print_table


def collect_tables(settings: Settings) -> tuple[Collected, list[PairedRow]]:
    """Collect the runs of ``collect.folders``, and write ``table.csv``, ``.md`` and ``.tex``.

    With ``collect.paired``, also what :func:`mar_accel.sweeps.pair_files.write_pairs` writes.

    Raises:
        ConfigError: no folder is given, or no row is the baseline.
        DataError: a folder does not exist, or has no finished run.
    """
    if not settings.collect.folders:
        raise ConfigError(
            "collect.folders is empty; give folders of runs: python -m mar_accel.collect FOLDER."
        )
    wanted = settings.collect
    collected = collect(
        wanted.folders,
        wanted.baseline,
        wanted.tuned,
        wanted.objective,
        baseline_per=wanted.baseline_per,
    )
    pairs = list[PairedRow]()
    if wanted.paired:
        pairs, further = compare_with_baseline(collected)
        collected = with_pairs(collected, pairs, further)
    output_dir = prepare_output_dir(Path(settings.output_dir).absolute())
    write_tables(collected, output_dir)
    if pairs:
        write_pairs(pairs, output_dir, wanted.worst)
    return collected, pairs


def show_collected(collected: Collected, pairs: Sequence[PairedRow], settings: Settings) -> None:
    """Print the tables with their notes."""
    print_table(heading(collected), [cells(collected, row) for row in collected.rows])
    for note in notes(collected):
        print(f"note: {note}")
    if pairs:
        print_table(paired_heading(pairs), [paired_cells(pair, pairs) for pair in pairs])
        print(f"note: {ABOUT}")
    for pair in pairs if settings.collect.worst else ():
        print(f"worst of {pair.row.name}:", *worst_lines(pair, min(3, settings.collect.worst)), sep="\n  ")
    print(f"{len(collected.rows)} settings, {len(collected.runs)} runs. Tables: {settings.output_dir}")
