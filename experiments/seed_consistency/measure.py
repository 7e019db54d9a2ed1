"""How much of an image is decided when half of its tokens are decoded, by the order of this half.

    python experiments/seed_consistency/measure.py [output_dir=FOLDER] [OVERRIDE …]

The first half of the tokens is decoded with one seed, the rest with several others. The more alike the
finished images are, the more the first half has decided. GtR's paper compares a checkerboard with a block.
Overrides are those of ``generate``, such as ``model=mar_base`` or ``dataset.num_images=4``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import Settings
from mar_accel.data.requests import GenerationRequests
from mar_accel.evaluation.pictures import labelled_strips
from mar_accel.inference.session import Session
from mar_accel.metrics.fidelity import fidelity
from mar_accel.sampling.noise import SampleNoise
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.sampler import Sampler
from mar_accel.utils import markdown
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.images import save_png

# Orders by name: which half comes first. The diagonals i + j even are a checkerboard.
ORDERS = {
    "checkerboard first": ["sampler/order=gtr", "sampler.order.num_stages=2"],
    "upper half first": ["sampler/order=raster"],
    "random half first": ["sampler/order=random"],
}
COMMON = ["sampler.num_iter=16", "sampler.num_diffusion_steps=20", "dataset.num_images=50", "logger=none"]
SEEDS = (1, 2, 3)


class SecondHalfOf:
    """A sampler whose second half of tokens has the noise of another seed; all else is the sampler's own."""

    def __init__(self, sampler: Sampler, seed: int):
        self.sampler = sampler
        self.seed = seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)

    def draw(
        self,
        plan: Plan,
        seed: int,
        indices: Sequence[int],
        token_dim: int,
        unknown: Tensor | None = None,
    ) -> SampleNoise:
        """Random numbers of a batch, those of the other seed at the positions that are decoded last."""
        own, other = (self.sampler.draw(plan, s, indices, token_dim, unknown) for s in (seed, self.seed))
        half = own.order[:, : plan.num_tokens // 2]
        first = torch.zeros(own.order.shape, dtype=torch.bool).scatter_(1, half, True)
        return SampleNoise(
            own.order,
            torch.where(first[None, :, :, None], own.noise, other.noise),
            torch.where(first, own.selection_scores, other.selection_scores),
        )


def finished_images(settings: Settings) -> list[Tensor]:
    """For each seed of the second half the images, uint8 [N, C, H, W]."""
    session = Session.from_settings(settings)
    requests = GenerationRequests(settings.dataset, settings.dataset.num_images).requests
    indices, labels = zip(*(requests[place] for place in range(len(requests))), strict=True)
    images = []
    for seed in SEEDS:
        sampler: Any = SecondHalfOf(session.sampler, seed)
        prediction = replace(session, sampler=sampler).sample(indices, torch.tensor(labels))
        images.append((prediction.images.clamp(0, 1) * 255).round().to(torch.uint8))
    return images


def similarity(images: Sequence[Tensor]) -> dict[str, float]:
    """PSNR and SSIM between the images of each pair of seeds, with standard errors over the samples."""
    pairs = [fidelity(one, other) for one, other in combinations(images, 2)]
    numbers = {}
    for name in ("psnr", "ssim"):
        # Pairs of one sample are not independent, so their mean is one value.
        values = torch.stack([getattr(pair, name) for pair in pairs]).mean(0)
        numbers[name] = float(values.mean())
        numbers[f"{name}_std_error"] = float(values.std() / len(values) ** 0.5)
    return numbers


def main(words: Sequence[str]) -> None:
    """Measure each order, and write ``table.csv``, ``table.md`` and ``samples.png``."""
    output_dir = Path("outputs/experiments/seed_consistency")
    overrides = [word for word in words if not word.startswith("output_dir=")]
    for word in words:
        if word.startswith("output_dir="):
            output_dir = Path(word.partition("=")[2])
    output_dir.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    strips = []
    for name, order in ORDERS.items():
        settings = compose_settings("generate", [*COMMON, *order, *overrides, f"output_dir={output_dir}"])
        images = finished_images(settings)
        rows.append({"first half": name, "images": len(images[0]), **similarity(images)})
        strips += [(f"{name}, seed {seed}", own[:8]) for seed, own in zip(SEEDS, images, strict=True)]
    write_csv(rows, output_dir / "table.csv")
    cells = [
        [
            row["first half"],
            f"{row['psnr']:.2f} ± {row['psnr_std_error']:.2f}",
            f"{row['ssim']:.3f} ± {row['ssim_std_error']:.3f}",
        ]
        for row in rows
    ]
    text = markdown.table(["first half", "PSNR between seeds, dB", "SSIM between seeds"], cells)
    (output_dir / "table.md").write_text(text)
    save_png(labelled_strips(strips), output_dir / "samples.png")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
