"""Show many runs as one page with tables and figures: ``python -m mar_accel.report FOLDER``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("report", folders="report.folders")
def main(settings: Settings) -> None:
    from mar_accel.reporting.report_run import PAGE_FILE, write_report

    points = write_report(settings)
    print(f"{len(points.points)} settings. Open {settings.output_dir}/{PAGE_FILE} in a browser.")


if __name__ == "__main__":
    main()
