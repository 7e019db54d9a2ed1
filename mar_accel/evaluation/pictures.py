"""Pictures of an evaluation: grids, strips, differences, distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mar_accel.evaluation.result import Comparison
from mar_accel.metrics.fidelity import difference_images
from mar_accel.utils.captions import TEXT_SIZE, captions_below
from mar_accel.utils.figures import picture_font

# Smaller images are enlarged by a whole factor to at least this size.
SHOWN_SIZE = 96
FIDELITY_TITLES = {
    "psnr": "PSNR to the unaccelerated image (dB)",
    "ssim": "SSIM to the unaccelerated image",
    "latent_mse": "latent MSE to the unaccelerated image",
}


def _enlarged(image: Tensor, size: int = SHOWN_SIZE) -> Image.Image:
    """Convert uint8 [1 or 3, H, W] to RGB and enlarge small images by a whole factor."""
    array = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    factor = max(1, -(-size // min(image.shape[-2:])))
    picture = Image.fromarray(array)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def captioned_grid(images: Tensor, captions: Sequence[str], columns: int = 8) -> Image.Image:
    """Images uint8 [N, C, H, W] in rows, with a caption below each image."""
    return captions_below([_enlarged(image) for image in images], captions, columns)


def labelled_strips(strips: Sequence[tuple[str, Tensor]], captions: Sequence[str] = ()) -> Image.Image:
    """One row of images uint8 [N, C, H, W] per name, with the name on the left.

    Args:
        strips: name and images of each row, equally many of one size.
        captions: text below each column, in lines of at most the width of an image; empty: none.
    """
    font, gap = picture_font(TEXT_SIZE), 6
    widest = max(font.getlength(line) for name, _ in strips for line in name.split("\n"))
    margin = round(widest) + 4 * gap
    tiles = [[_enlarged(image) for image in images] for _, images in strips]
    width, height = tiles[0][0].size
    most = max(len(row) for row in tiles)
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    size = (margin + most * (width + gap), len(strips) * (height + gap) + lines * (TEXT_SIZE + gap))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, ((name, _), pictures) in enumerate(zip(strips, tiles, strict=True)):
        y = row * (height + gap) + gap // 2
        draw.multiline_text((gap, y + height // 2), name, fill="black", font=font, anchor="lm", spacing=gap)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (margin + column * (width + gap), y))
    for column, caption in enumerate(captions):
        x, y = margin + column * (width + gap) + width // 2, len(strips) * (height + gap)
        for number, line in enumerate(caption.split("\n")):
            place = (x, y + (number + 0.5) * (TEXT_SIZE + gap))
            draw.text(place, line, fill="black", font=font, anchor="mm")
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


def draw_distributions(figure: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw histograms of the per-image fidelity."""
    shown = [name for name in FIDELITY_TITLES if rows[0][name] is not None]
    for axis, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        values = torch.tensor([row[name] for row in rows], dtype=torch.float32)
        axis.hist(values.numpy(), bins=min(20, max(4, len(rows) // 3)), edgecolor="white", linewidth=0.4)
        axis.axvline(float(values.mean()), color="black", linewidth=0.8)
        title = f"mean {float(values.mean()):.4g}, {len(rows)} images"
        axis.set(title=title, xlabel=FIDELITY_TITLES[name], ylabel="number of images")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.xaxis.get_major_locator().set_params(nbins=5)
