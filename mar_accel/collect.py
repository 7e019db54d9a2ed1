"""Show a folder of runs as one table: ``python -m mar_accel.collect FOLDER``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("collect", folders="collect.folders")
def main(settings: Settings) -> None:
    from mar_accel.sweeps.collect_run import collect_tables, show_collected

    show_collected(*collect_tables(settings), settings)


if __name__ == "__main__":
    main()
