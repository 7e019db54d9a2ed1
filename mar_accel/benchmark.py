"""Time variants against each other: ``python -m mar_accel.benchmark model=mar_base model.weights=random``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("benchmark")
def main(settings: Settings) -> None:
    from hydra.core.hydra_config import HydraConfig

    from mar_accel.profiling.benchmark import benchmark
    from mar_accel.profiling.benchmark_result import show_timings

    show_timings(settings, benchmark(settings, HydraConfig.get().overrides.task))


if __name__ == "__main__":
    main()
