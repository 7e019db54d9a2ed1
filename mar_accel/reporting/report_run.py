"""A run of ``report``: the page, its figures and its tables."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.reporting.chart_data import WORST_IMAGES
from mar_accel.reporting.export import Figures
from mar_accel.reporting.page import page
from mar_accel.reporting.points import Points, read_points
from mar_accel.reporting.tables import cells, heading, write_tables
from mar_accel.runs.output_dir import prepare_output_dir
from mar_accel.runs.run_log import RunLog
from mar_accel.sweeps.pair_files import write_pairs
from mar_accel.utils.progress import busy
from mar_accel.utils.whole_files import written_whole

PAGE_FILE, FIGURES = "report.html", "figures"


def write_report(settings: Settings) -> Points:
    """Write ``report.html``, ``figures/`` and the tables of the runs in ``report.folders``.

    Raises:
        ConfigError: no folder is given, a package is missing, or no row is the baseline.
        DataError: a folder does not exist, or has no finished run.
    """
    wanted = settings.report
    if not wanted.folders:
        raise ConfigError("report.folders is empty; give folders of runs: python -m mar_accel.report FOLDER.")
    check_altair()
    with RunLog.of(settings) as log:
        points = read_points(
            wanted.folders,
            wanted.baseline,
            wanted.tuned,
            wanted.objective,
            wanted.paired,
            wanted.baseline_per,
        )
        output_dir = prepare_output_dir(Path(settings.output_dir).absolute())
        figures = _write(points, settings, output_dir)
        log.page("report", output_dir / PAGE_FILE)
        log.table(
            "settings",
            heading(points),
            [cells(points, point) for point in points.points],
        )
        for figure in figures:
            log.picture(f"figures/{figure.stem}", figure, figure.stem.replace("_", " "))
    return points


def _write(points: Points, settings: Settings, output_dir: Path) -> list[Path]:
    """Write page, tables and figures; returns the figures."""
    wanted = settings.report
    title = wanted.title or ", ".join(Path(folder).absolute().name for folder in wanted.folders)
    with busy("writing the page"):
        text = page(points, title)
        with written_whole(output_dir / PAGE_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_tables(points, output_dir)
    if pairs := [point.pair for point in points.points if point.pair is not None]:
        write_pairs(pairs, output_dir, WORST_IMAGES)
    if not wanted.figures:
        return []
    with busy("drawing the figures"):
        return Figures(points).write(output_dir / FIGURES)


def check_altair() -> None:
    """Raise ConfigError if the packages of the extra "report" are missing."""
    if find_spec("altair") is None or find_spec("vl_convert") is None:
        raise ConfigError(
            "report needs altair and vl-convert; run pip install -e '.[report]' in the checkout."
        )
