"""Where FTS's high scores fall: on edges of objects, patterned backgrounds, or plain ones.

    python experiments/scenes_fts_scores/measure.py [output_dir=FOLDER] [OVERRIDE …]

FTS gives the tokens of the last stage with the highest frequency scores more diffusion steps. Here, every
token of this stage has the rank of its score within its AR step, and a kind, which is read from the finished
image. Overrides are those of ``generate``, such as ``dataset.num_images=100``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from mar_accel.config.compose import compose_settings
from mar_accel.config.rows import merge_overrides
from mar_accel.config.settings import Settings
from mar_accel.data.requests import GenerationRequests
from mar_accel.inference.session import Session
from mar_accel.metrics.features import quantise
from mar_accel.metrics.scene_objects import MIN_COVERAGE, background_colour, object_coverage
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.selection import frequency_scores
from mar_accel.sampling.state import DecodeState
from mar_accel.utils import markdown
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.progress import progress

COMMON = [
    *(
        "model=scenes",
        "dataset=scenes_eval",
        "sampler=gtr",
        "dataset.num_images=1000",
        "trainer.batch_size=48",
    ),
    *("logger=none", "callbacks=none"),
]
KINDS = ("edge of an object", "inside of an object", "patterned background", "plain background")
# Standard deviation of the pixels of a background token, 0..1, from which on it counts as patterned.
PATTERNED = 0.03


class LastStageRanks(Observer):
    """Ranks of the frequency scores in the AR steps of the last stage, 0 (lowest) to 1.

    Attributes:
        ranks: by grid position [B, L]; NaN for the tokens of the earlier stages.
    """

    def start(self, state: DecodeState) -> None:
        self.ranks = torch.full(state.order.shape, torch.nan)
        self.last = state.plan.steps[-1].stage

    def conditioning(self, state: DecodeState, step: ARStep, z: Tensor) -> None:
        if step.stage == self.last and step.num_tokens > 1:
            # The conditional rows come first.
            scores = frequency_scores(z[: state.batch_size])
            ranks = scores.argsort(1).argsort(1).float() / (step.num_tokens - 1)
            self.ranks.scatter_(1, state.predicted(step), ranks)


def kinds_of(image: Tensor, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """Kind of each token, as a place in KINDS [L], and its detail: the deviation of its pixels [L]."""
    pixels = image.permute(1, 2, 0).numpy().astype(np.float32) / 255
    colour, coverage = object_coverage(pixels, background_colour(pixels))
    is_object = _tokens(((colour >= 0) & (coverage > MIN_COVERAGE))[..., None], patch).mean(1)
    detail = _tokens(pixels, patch).std(1)
    kinds = np.where(detail > PATTERNED, 2, 3)
    kinds = np.where(is_object > 0, np.where(is_object < 1, 0, 1), kinds)
    return kinds, detail


def _tokens(pixels: np.ndarray, patch: int) -> np.ndarray:
    """Pixels [H, W, C] as tokens [L, patch·patch], the mean over the channels."""
    height, width = pixels.shape[0] // patch, pixels.shape[1] // patch
    grid = pixels.mean(2).reshape(height, patch, width, patch).swapaxes(1, 2)
    return grid.reshape(height * width, patch * patch)


@dataclass
class Found:
    """What the images of a kind of token say, one value per image that has such tokens in its last stage.

    Attributes:
        ranks: mean rank of the tokens of this kind.
        shares: their share of the tokens of the last stage.
        selected: their share of the tokens with the highest scores.
    """

    ranks: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    selected: list[float] = field(default_factory=list)

    def add(self, of_kind: np.ndarray, ranks: np.ndarray, known: np.ndarray, high: np.ndarray) -> None:
        """Add an image: the tokens of this kind [L], ranks [L], those of the last stage, and the highest."""
        if (of_kind & known).any():
            self.ranks.append(float(ranks[of_kind & known].mean()))
        self.shares.append(float(of_kind[known].mean()))
        self.selected.append(float(of_kind[high].mean()))


def measure(settings: Settings) -> list[dict[str, object]]:
    """One record per kind, with means over images and their 95 % intervals, and one for the correlation."""
    session, observer = Session.from_settings(settings), LastStageRanks()
    fraction = getattr(session.sampler.selection, "fraction", 0.1)
    requests = GenerationRequests(settings.dataset, settings.trainer.batch_size)
    found, correlations = {kind: Found() for kind in KINDS}, []
    for indices, labels in progress(requests.predict_dataloader(), "batches"):
        images = quantise(session.sample(indices.tolist(), labels, observer).images)
        for image, ranks in zip(images, observer.ranks.numpy(), strict=True):
            kinds, detail = kinds_of(image, image.shape[-1] // session.model.config.grid[1])
            known = ~np.isnan(ranks)
            high = known & (ranks > 1 - fraction)
            for number, kind in enumerate(KINDS):
                found[kind].add(kinds == number, ranks, known, high)
            correlations.append(float(spearmanr(ranks[known], detail[known]).statistic))
    records: list[dict[str, object]] = []
    for kind, own in found.items():
        shares = {"share": np.mean(own.shares), "share_of_selected": np.mean(own.selected)}
        records.append({"kind": kind, **_interval(own.ranks), **shares, "images": len(own.ranks)})
    defined = [value for value in correlations if np.isfinite(value)]
    return [
        *records,
        {"kind": "correlation of rank and detail", **_interval(defined), "images": len(defined)},
    ]


def _interval(values: Sequence[float]) -> dict[str, float]:
    """Mean over images with the half width of its 95 % interval; NaN with fewer than two."""
    if len(values) < 2:
        return {"mean": float("nan"), "interval": float("nan")}
    return {
        "mean": float(np.mean(values)),
        "interval": float(1.96 * np.std(values, ddof=1) / len(values) ** 0.5),
    }


def main(arguments: Sequence[str]) -> None:
    """Measure, and write the table into ``output_dir``."""
    settings = compose_settings("generate", merge_overrides(COMMON, arguments))
    folder = Path(settings.output_dir)
    records = measure(settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(records, folder / "table.csv")
    rows = [
        [
            str(r["kind"]),
            f"{r['mean']:.3f} ± {r['interval']:.3f}",
            *(f"{r[key]:.1%}" if key in r else "–" for key in ("share", "share_of_selected")),
        ]
        for r in records
    ]
    heading = ["tokens of the last stage", "mean rank of the score", "of all", "of the selected"]
    (folder / "table.md").write_text(markdown.table(heading, rows))
    print((folder / "table.md").read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
