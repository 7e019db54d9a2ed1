"""The score of scenes on real scenes: which share of each category counts as right, and their FID.

    python experiments/scenes_score/validate.py

It draws the scenes of the prompts of dataset=scenes_eval and writes ``table.csv`` and ``table.md``. It prints
FID, precision and recall of a perfect generator: with 4 images of each prompt, and of random scenes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scene_prompts import evaluation_scene
from mar_accel.data.scenes import draw_scene
from mar_accel.metrics.features import quantise
from mar_accel.metrics.quality import FeatureSet, measure_quality
from mar_accel.metrics.scene_features import SceneFeatures
from mar_accel.metrics.scene_reference import SceneReference
from mar_accel.metrics.scene_score import SceneScore
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.markdown import table

PROMPTS = 600
# Scenes are drawn with this seed, 10 for each prompt: 1,000 in each category.
SEED, PER_PROMPT = 1, 10


def show_quality(name: str, parts: Sequence[FeatureSet], extractor: SceneFeatures, balanced: bool) -> None:
    """Print what the features say of real scenes, which is what a perfect generator gets."""
    reference = SceneReference(balanced=balanced).load(extractor)
    numbers = measure_quality(FeatureSet.join(list(parts)), extractor, reference).numbers
    keys = ("num_images", "fid", "fid_std_error", "precision", "recall")
    print(f"{name}:", ", ".join(f"{key} {numbers[key]:.4g}" for key in keys), flush=True)


def main() -> None:
    score, drawer, rng = SceneScore(), SceneDrawer(), np.random.default_rng(SEED)
    extractor, by_prompt, random = SceneFeatures(), [], []
    for number in range(PROMPTS):
        images = quantise(drawer([evaluation_scene(number)[0]] * PER_PROMPT, rng))
        labels, indices = torch.full((PER_PROMPT,), number), number * 4 + torch.arange(4)
        score.update(images, labels)
        by_prompt.append(FeatureSet.of(extractor(images[:4]), indices, labels[:4]))
        others = quantise(drawer([draw_scene(rng) for _ in range(4)], rng))
        random.append(FeatureSet.of(extractor(others), indices, indices))
    show_quality("dataset=scenes_eval", by_prompt, extractor, balanced=True)
    show_quality("dataset=scenes", random, extractor, balanced=False)
    each = PROMPTS * PER_PROMPT // 6
    rows: list[dict[str, object]] = []
    for name, value in score.compute().items():
        share, count = float(value), each if name != "overall" else 6 * each
        error = math.sqrt(share * (1 - share) / count)
        rows.append({"category": name, "right": share, "standard_error": error, "images": count})
        print(f"{name}: {share:.2%} ± {error:.2%}")
    folder = Path(__file__).parent
    write_csv(rows, folder / "table.csv")
    cells = [
        [str(r["category"]), f"{r['right']:.2%} ± {r['standard_error']:.2%}", str(r["images"])] for r in rows
    ]
    (folder / "table.md").write_text(table(["real scenes", "right", "images"], cells))


if __name__ == "__main__":
    main()
