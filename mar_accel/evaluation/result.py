"""The results of an evaluation, and how they are written and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from torch import Tensor

from mar_accel.data.image_sets import Key
from mar_accel.metrics.fidelity import EQUAL_IMAGES_PSNR, Fidelity

METRICS_FILE = "metrics.json"
# Images of the sample grid in reports.
SHOWN_IMAGES = 64

# Keys that scripts rely on. They are always in metrics.json, and null if they were not measured.
METRIC_KEYS = (
    "num_images",
    "fid",
    "fid_std_error",
    "fid_bias",
    "kid",
    "kid_std",
    "inception_score",
    "inception_score_std",
    "precision",
    "recall",
    "recognised",
    "recognised_std_error",
    "psnr",
    "psnr_std",
    "ssim",
    "lpips",
    "latent_mse",
    "latent_mse_std",
    "fidelity_images",
    "latency_s_per_image",
    "latency_s_per_image_min",
    "latency_s_per_image_max",
    "throughput_img_s",
    "batch_size",
    "num_devices",
    "speedup",
    "speedup_min",
    "speedup_max",
    "tflops_per_image",
    "tflops_encoder",
    "tflops_decoder",
    "tflops_head",
    "achieved_flops",
    "peak_flops",
    "peak_memory_bytes",
)


@dataclass
class Comparison:
    """Images and the unaccelerated images of the same seed.

    Attributes:
        images, baseline: uint8 [n, C, H, W].
        labels: class labels [n], −1 if unknown.
        keys: sample indices (or paths) [n], by which the images were paired.
        fidelity: similarity of each pair.
    """

    images: Tensor
    baseline: Tensor
    labels: Tensor
    keys: Sequence[Key]
    fidelity: Fidelity


@dataclass
class Evaluation:
    """All results of one evaluation.

    Attributes:
        metrics: numbers by name; see METRIC_KEYS.
        time_shares: share of the time by component, or empty.
        steps: one record per AR step, or empty.
        warnings: sentences that a reader of the numbers must know.
        comparison: comparison with the unaccelerated images, or None.
        samples: the first images uint8 [n, C, H, W] and their labels [n], or None.
        tokens: tokens of the first images [m, L, C], or None.
            Other runs use them to compute their fidelity to this run.
        baseline: config hash or path of the baseline images, or None.
        weights_entry: entry of the checkpoint that the model's weights were taken from, or None.
    """

    metrics: dict[str, float | None]
    time_shares: dict[str, float] = field(default_factory=dict)
    steps: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    comparison: Comparison | None = None
    samples: tuple[Tensor, Tensor] | None = None
    tokens: Tensor | None = None
    baseline: str | None = None
    weights_entry: str | None = None

    def record(self, **extra: Any) -> dict[str, Any]:
        """The content of metrics.json: first the metrics, then ``extra`` and the rest."""
        numbers = dict.fromkeys(METRIC_KEYS) | self.metrics
        rest = {"baseline": self.baseline, "time_shares": self.time_shares, "warnings": self.warnings}
        return {**numbers, **extra, **rest}


# Heading, key, format, key of the error shown after ±.
_ROWS: tuple[tuple[str, str, str, str | None], ...] = (
    ("images", "num_images", ".0f", None),
    ("FID", "fid", ".3f", "fid_std_error"),
    ("FID of a perfect generator", "fid_bias", ".3f", None),
    ("KID × 1000", "kid", ".3f", "kid_std"),
    ("Inception Score", "inception_score", ".2f", "inception_score_std"),
    ("precision", "precision", ".3f", None),
    ("recall", "recall", ".3f", None),
    ("recognised", "recognised", ".2%", "recognised_std_error"),
    ("PSNR vs. unaccelerated, dB", "psnr", ".2f", None),
    ("SSIM vs. unaccelerated", "ssim", ".4f", None),
    ("LPIPS vs. unaccelerated", "lpips", ".4f", None),
    ("latent MSE vs. unaccelerated", "latent_mse", ".3g", None),
    ("seconds per image (median)", "latency_s_per_image", ".4g", None),
    ("images per second", "throughput_img_s", ".4g", None),
    ("speedup over unaccelerated", "speedup", ".2f", None),
    ("TFLOPs per image", "tflops_per_image", ".4g", None),
    ("peak memory, MiB", "peak_memory_bytes", ".0f", None),
)
_SCALES = {"kid": 1e3, "kid_std": 1e3, "peak_memory_bytes": 2.0**-20}


def metric_text(metrics: dict[str, Any], key: str, spec: str, error_key: str | None = None) -> str:
    """Format a number with its error; a missing number is a dash."""
    value = metrics.get(key)
    if value is None:
        return "–"
    if key == "psnr" and value >= EQUAL_IMAGES_PSNR:
        return "equal"
    text = format(value * _SCALES.get(key, 1), spec)
    if text.startswith("-") and not any(digit in text for digit in "123456789"):
        text = text[1:]
    error = metrics.get(error_key) if error_key else None
    return text if error is None else f"{text} ± {format(error * _SCALES.get(key, 1), spec)}"


def result_table(title: str, evaluation: Evaluation) -> Table:
    """The measured numbers of one evaluation, as a table for the terminal."""
    table = Table(title=title, show_header=False)
    for heading, key, spec, error_key in _ROWS:
        if evaluation.metrics.get(key) is not None:
            table.add_row(heading, metric_text(evaluation.metrics, key, spec, error_key))
    for key, value in evaluation.metrics.items():
        if key not in METRIC_KEYS and value is not None:
            table.add_row(key, f"{value:.4g}")
    for name, share in evaluation.time_shares.items():
        table.add_row(f"  time in {name}", f"{share:.1%}")
    return table
