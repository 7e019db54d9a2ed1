"""Train a model: ``python -m mar_accel.train model=digits dataset=digits``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("train")
def main(settings: Settings) -> None:
    from mar_accel.training.run import train

    result = train(settings)
    if result is not None:
        print(f"{result.steps} steps; averaged weights: {result.folder}")


if __name__ == "__main__":
    main()
