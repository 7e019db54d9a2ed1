"""GenEval's folder layout beside the images of a run (arXiv:2310.11513)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mar_accel.config.settings import DatasetSettings
from mar_accel.data.run_images import PngImages, RunImages
from mar_accel.utils.images import image_name, save_png
from mar_accel.utils.links import link_or_copy

FOLDER = "geneval"


def write_geneval(images: RunImages, dataset: DatasetSettings, num_images: int) -> Path:
    """Write ``geneval/`` as the official scorer reads it; an earlier one is replaced.

    Each prompt has a folder with five digits: ``metadata.jsonl`` holds the prompt's line of GenEval's
    metadata, and ``samples/`` its images ``0000.png``, ``0001.png``, …

    Args:
        images: the images of the run, all of them.
        dataset: the prompts and their metadata.
        num_images: number of images of the run.

    Returns:
        The folder.
    """
    lines, per_prompt = dataset.metadata or [], dataset.num_images_per_prompt
    folder, temporary = images.output_dir / FOLDER, images.output_dir / f".{FOLDER}.tmp"
    pictures = None if isinstance(images, PngImages) else images.first(num_images)
    shutil.rmtree(temporary, ignore_errors=True)
    for index in range(num_images):
        turn, place = divmod(index, per_prompt * len(lines))
        prompt, sample = divmod(place, per_prompt)
        target = temporary / f"{prompt:05d}"
        (target / "samples").mkdir(parents=True, exist_ok=True)
        if not sample and not turn:
            (target / "metadata.jsonl").write_text(lines[prompt].strip() + "\n", encoding="utf-8")
        file = target / "samples" / f"{turn * per_prompt + sample:04d}.png"
        if pictures is None:
            link_or_copy(images.folder / image_name(index), file)
        else:
            save_png(pictures[index], file, sync_name=False)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    return folder
