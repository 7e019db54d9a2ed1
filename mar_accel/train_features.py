"""Train the feature network of the digits or scenes: ``python -m mar_accel.train_features``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("train_features")
def main(settings: Settings) -> None:
    from mar_accel.training.features import train_features

    for key, value in train_features(settings).items():
        print(f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}")


if __name__ == "__main__":
    main()
