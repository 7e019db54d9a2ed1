"""Measure and draw what caches can save: ``python -m mar_accel.redundancy model=digits``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("redundancy")
def main(settings: Settings) -> None:
    from mar_accel.analysis.redundancy_run import measure_redundancy

    ratio = measure_redundancy(settings).residual_ratio()
    if ratio is not None:
        print(f"The branches' difference moves {ratio:.1f} times less than the conditional branch (MSE).")
    print(f"Figures and numbers: {settings.output_dir}")


if __name__ == "__main__":
    main()
