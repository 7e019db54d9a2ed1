"""Sample images: ``python -m mar_accel.generate model=digits sampler=mar cache=none``."""

from __future__ import annotations

from typing import Any

from mar_accel.config.settings import Settings
from mar_accel.data.run_files import RECORD_FILE
from mar_accel.runs.entry import command


@command("generate", finished_file=RECORD_FILE)
def main(settings: Settings) -> float | None:
    from mar_accel.profiling.estimate import announce
    from mar_accel.runs.generation import generate

    def before_sampling(session: Any, num_images: int, num_processes: int) -> None:
        announce([session], [num_images], settings.trainer, num_processes)

    result = generate(settings, before_sampling)
    if result is None:
        return None
    kept = result.num_images - result.num_sampled
    rate = f" ({result.speed['images_per_second']:.2f} images/s)" if result.speed else ""
    note = f", {kept} were there already" if kept else ""
    print(f"{result.num_sampled} images in {result.seconds:.1f} s{rate}{note}: {result.output_dir}")
    print(f"All in one: {result.output_dir / 'grid.png'}")
    return result.speed.get("seconds_per_image")


if __name__ == "__main__":
    main()
