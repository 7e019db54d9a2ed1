"""What the experiments take, before anything is sampled.

    python experiments/cost.py [NAME …] [OVERRIDE …]

For every command that evaluates it prints settings, images and counted TFLOPs. Timing rounds, references and
pictures are left out. Counting takes seconds per setting.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import run as experiments
from hydra.core.override_parser.overrides_parser import OverridesParser

from mar_accel.config.compose import compose_settings
from mar_accel.config.rows import compose_rows, load_rows, select_rows
from mar_accel.config.settings import Settings
from mar_accel.sweeps.cost import counted_tflops
from mar_accel.sweeps.grid import combinations
from mar_accel.utils.markdown import table

# The embedded model on one thread of a server CPU with AVX-512, by processor time.
GFLOPS = 75.0


@dataclass(frozen=True)
class Cost:
    """What a command takes.

    Attributes:
        name: experiment, and name of the command if there are several.
        settings: number of rows or runs.
        images: images of each of them.
        tflops: counted TFLOPs of all images.
    """

    name: str
    settings: int
    images: int
    tflops: float

    @property
    def minutes(self) -> float:
        """Minutes of one thread."""
        return self.tflops * 1e3 / GFLOPS / 60


def settings_of(one: experiments.Run, overrides: Sequence[str] = ()) -> list[Settings]:
    """The settings of every row or run of a command that samples."""
    own = [*one.overrides, *overrides]
    if one.sweep:
        found = combinations(own, OverridesParser.create())
        return [compose_settings(one.command, c.overrides) for c in found]
    if one.command == "evaluate_table":
        table = compose_settings("evaluate_table", own).table
        rows = select_rows(load_rows(table.rows), table.only, "table.only", keep_first=True)
        return compose_rows("evaluate", rows, own, "table")
    return []


def cost(one: experiments.Run, overrides: Sequence[str] = ()) -> Cost | None:
    """What a command takes; None if it is no evaluation."""
    settings = settings_of(one, overrides)
    if not settings:
        return None
    images = settings[0].dataset.num_images
    tflops = sum((counted_tflops(own) or 0.0) * own.dataset.num_images for own in settings)
    return Cost(" ".join(filter(None, (one.experiment, one.name))), len(settings), images, tflops)


def main(words: Sequence[str]) -> None:
    """Print a table of the named experiments, or of all."""
    wanted, overrides = experiments.chosen(words)
    costs = [cost(one, overrides) for name in wanted for one in experiments.read(name)]
    rows = [
        [c.name, str(c.settings), str(c.images), f"{c.tflops:.3g}", f"{c.minutes:.0f}"]
        for c in costs
        if c is not None
    ]
    minutes = sum(c.minutes for c in costs if c is not None)
    print(table(["experiment", "settings", "images each", "TFLOPs", "minutes of one thread"], rows))
    print(f"All: {minutes:.0f} minutes of one thread at {GFLOPS:.0f} GFLOP/s.")


if __name__ == "__main__":
    main(sys.argv[1:])
