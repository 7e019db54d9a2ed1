"""Fit a cache to a ratio of FLOPs: ``mar_accel.calibrate cache=lazymar calibrate.flops_ratio=3``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("calibrate")
def main(settings: Settings) -> None:
    from mar_accel.analysis.calibration_run import calibrate
    from mar_accel.analysis.head_calibration_run import calibrate_head

    threshold = settings.calibrate.head_threshold
    if threshold is not None:
        head = calibrate_head(settings, threshold)
        print(f"{head.flops_ratio:.2f} times fewer FLOPs with {len(head.timesteps)} refreshes in a chain")
        print(" ".join(f"'{override}'" for override in head.overrides))
        print(f"Results: {settings.output_dir}")
        return
    result = calibrate(settings)
    print(
        f"{result.flops_ratio:.2f} times fewer FLOPs with {len(result.schedule.refreshes)} refreshes; "
        f"cache/refresh=adaptive does the same at a threshold of {result.schedule.drift:.4g}"
    )
    print(" ".join(f"'{override}'" for override in result.overrides))
    print(f"Results: {settings.output_dir}")


if __name__ == "__main__":
    main()
