"""Latent MSE to the unaccelerated tokens of the same seeds, and its differences between rows, image by image.

python experiments/head_forecasts/paired.py FOLDER

FOLDER is what the experiment's command has written. The differences have 95 % intervals over the images.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from mar_accel.metrics.paired import paired_mean_difference

# What each row is compared with: the cache of LazyMAR that works on the same part.
BASES = {"head": "head, periodic", "token": "token, by similarity"}


def errors(folder: Path, exact: Tensor) -> Tensor:
    """Latent MSE of each image [N] of a row."""
    tokens = load_file(folder / "tokens.safetensors")["tokens"]
    return (tokens - exact[: len(tokens)]).square().mean(dim=(1, 2))


def main(words: list[str]) -> None:
    """Write ``paired.csv`` into the folder."""
    output = Path(words[0])
    rows = {file.parent.name.rpartition("-")[0]: file.parent for file in output.glob("rows/*/metrics.json")}
    exact = load_file(rows.pop("none") / "tokens.safetensors")["tokens"]
    measured = {name: errors(folder, exact) for name, folder in rows.items()}
    lines = []
    for name in sorted(rows):
        base = BASES[name.partition(",")[0]]
        metrics = json.loads((rows[name] / "metrics.json").read_text())
        compared = paired_mean_difference(measured[name], measured[base])
        lines.append(
            {
                "row": name,
                "num_images": compared.count,
                "tflops_per_image": metrics["tflops_per_image"],
                "latent_mse": compared.ours,
                "compared_with": base,
                "difference": compared.difference,
                "low": compared.low,
                "high": compared.high,
                "lower_in": float((measured[name] < measured[base]).float().mean()),
            }
        )
    with (output / "paired.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
