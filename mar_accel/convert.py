"""Checkpoints to model folders: ``python -m mar_accel.convert model=mar_base model.weights=FILE``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("convert")
def main(settings: Settings) -> None:
    from mar_accel.runs.conversion import convert

    conversion = convert(settings)
    if not conversion.has_autoencoder:
        print("model.autoencoder.weights was not given: the folder has no vae, so sampling needs that key.")
    print(f"{settings.model.name} ({settings.dtype}): {conversion.folder}")


if __name__ == "__main__":
    main()
