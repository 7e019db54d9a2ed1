"""The files of an evaluation: metrics.json, tables as CSV, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mar_accel.data.image_sets import TOKENS_NAME
from mar_accel.evaluation.result import METRICS_FILE, Comparison, Evaluation
from mar_accel.evaluation.token_files import remove_batches, write_tokens
from mar_accel.metrics.fidelity import difference_images
from mar_accel.runs.record import write_json
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.images import save_png

# Smaller images are enlarged by a whole factor to at least this size.
SHOWN_SIZE = 64
SAMPLES, COMPARISON, DISTRIBUTION = "samples.png", "comparison.png", "fidelity.png"


def write_metrics(evaluation: Evaluation, output_dir: Path, **extra: Any) -> None:
    """Write metrics.json. It marks the run as finished, so it must be written last.

    Args:
        evaluation: the evaluation to write.
        output_dir: the run folder.
        extra: further keys at the top level.
    """
    write_json(evaluation.record(**extra), output_dir / METRICS_FILE)
    remove_batches(output_dir)


def write_evaluation(evaluation: Evaluation, output_dir: Path) -> dict[str, tuple[Path, str]]:
    """Write everything except the metrics.

    Returns:
        File and caption of each picture by name.
    """
    pictures = {}
    if evaluation.samples is not None:
        images, labels = evaluation.samples
        captions = [
            f"{i}: class {label}" if label >= 0 else str(i) for i, label in enumerate(labels.tolist())
        ]
        save_png(captioned_grid(images, captions), output_dir / SAMPLES)
        pictures["samples"] = (output_dir / SAMPLES, f"samples 0 to {len(images) - 1}, with their classes")
    if evaluation.tokens is not None and len(evaluation.tokens):
        write_tokens(evaluation.tokens, output_dir)
    if evaluation.steps:
        write_csv(evaluation.steps, output_dir / "ar_steps.csv")
    if evaluation.comparison is not None:
        pictures |= _write_comparison(evaluation.comparison, output_dir)
    return pictures


def num_tokens(folder: Path) -> int:
    """Number of images whose tokens are stored in a run folder."""
    try:
        with safe_open(folder / TOKENS_NAME, framework="pt") as file:
            return int(file.get_slice("tokens").get_shape()[0])
    except (OSError, SafetensorError):
        return 0


def _write_comparison(comparison: Comparison, output_dir: Path) -> dict[str, tuple[Path, str]]:
    agreement = comparison.fidelity
    mse = agreement.latent_mse.tolist() if agreement.latent_mse is not None else [None] * len(agreement.psnr)
    psnrs, ssims = agreement.psnr.tolist(), agreement.ssim.tolist()
    columns = zip(comparison.keys, comparison.labels.tolist(), psnrs, ssims, mse, strict=True)
    rows = [
        {"index": index, "label": label, "psnr": psnr, "ssim": ssim, "latent_mse": error}
        for index, label, psnr, ssim, error in columns
    ]
    write_csv(rows, output_dir / "fidelity.csv")
    save_png(comparison_picture(comparison), output_dir / COMPARISON)
    pictures = {
        "comparison": (output_dir / COMPARISON, "accelerated, unaccelerated, difference (same seed)"),
    }
    if _plot_distributions(rows, output_dir / DISTRIBUTION):
        pictures["fidelity"] = (
            output_dir / DISTRIBUTION,
            "per-image fidelity to the unaccelerated images",
        )
    return pictures


def _enlarged(image: Tensor, size: int = SHOWN_SIZE) -> Image.Image:
    """Convert uint8 [1 or 3, H, W] to RGB and enlarge small images by a whole factor."""
    array = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    factor = max(1, -(-size // min(image.shape[-2:])))
    picture = Image.fromarray(array)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def captioned_grid(images: Tensor, captions: Sequence[str], columns: int = 8) -> Image.Image:
    """Images uint8 [N, C, H, W] in rows, with a caption below each image."""
    tiles = [_enlarged(image) for image in images]
    # Space for the caption, which is drawn in the default font of about 11 pixels.
    width, height, text = max(tiles[0].width, 72), tiles[0].height, 14
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (min(columns, len(tiles)) * (width + 4), rows * (height + text + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(number, columns)
        x, y = column * (width + 4) + 2, row * (height + text + 4) + 2
        sheet.paste(tile, (x, y))
        draw.text((x, y + height), caption, fill="black")
    return sheet


def labelled_strips(strips: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """One row of images uint8 [N, C, H, W] per name, with the name on the left."""
    margin, gap = 8 + 7 * max(len(line) for name, _ in strips for line in name.split("\n")), 4
    tiles = [[_enlarged(image) for image in images] for _, images in strips]
    width, height = tiles[0][0].size
    most = max(len(row) for row in tiles)
    sheet = Image.new("RGB", (margin + most * (width + gap), len(strips) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, ((name, _), pictures) in enumerate(zip(strips, tiles, strict=True)):
        y = row * (height + gap) + gap // 2
        draw.multiline_text((4, y + height // 2), name, fill="black", anchor="lm")
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (margin + column * (width + gap), y))
    return sheet


def comparison_picture(comparison: Comparison, count: int = 10) -> Image.Image:
    """Three rows: accelerated images, unaccelerated images and their difference."""
    images, baseline = comparison.images[:count], comparison.baseline[:count]
    return labelled_strips(
        [
            ("accelerated", images),
            ("unaccelerated", baseline),
            ("difference", difference_images(images, baseline)),
        ]
    )


def _plot_distributions(rows: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draw histograms of the per-image fidelity; returns False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    names = [name for name in ("psnr", "ssim", "latent_mse") if rows[0][name] is not None]
    titles = {"psnr": "PSNR (dB)", "ssim": "SSIM", "latent_mse": "latent MSE"}
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        values = torch.tensor([row[name] for row in rows], dtype=torch.float32)
        axis.hist(values.numpy(), bins=20)
        axis.axvline(float(values.mean()), color="black", linewidth=1)
        axis.set(title=f"{titles[name]}: mean {float(values.mean()):.4g}", ylabel="images")
    figure.savefig(path, dpi=120)
    return True
