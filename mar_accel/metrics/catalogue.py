"""All numbers that an evaluation gives: names, kinds, and how they are shown.

Tables, records, sweeps and loggers follow this list. Add a built-in metric here, and compute it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mar_accel.metrics.intervals import wilson_interval

# The PSNR of equal images is infinite and would make every mean infinite, so it is capped at this value.
# Only equal images reach it: one pixel of a 256×256 image that is off by one level gives 101 dB.
EQUAL_IMAGES_PSNR = 110.0
# Images of one published subset. With fewer, KID × 1000 of good images can be in the thousands, of any sign.
KID_IMAGES = 1000

# The scores of metrics=scenes_eval (:mod:`mar_accel.metrics.scene_score`) with the words of tables.
_SCENES = {
    "scenes_overall": "score",
    "scenes_single_object": "one object",
    "scenes_two_object": "two objects",
    "scenes_counting": "counting",
    "scenes_colors": "colours",
    "scenes_position": "position",
    "scenes_color_attr": "colour of each",
}
_HIGHER = {
    *_SCENES,
    *(f"{key}_difference" for key in _SCENES),
    *("recognised", "inception_score", "precision", "recall", "psnr", "ssim", "throughput_img_s", "speedup"),
    *("achieved_flops", "images_per_second", "recognised_difference", "class_score_difference"),
}
_LOWER = {
    *(
        "fid",
        "kid",
        "cmmd",
        "lpips",
        "latent_mse",
        "latency_s_per_image",
        "tflops_per_image",
        "tflops_encoder",
        "fid_difference",
    ),
    *("tflops_decoder", "tflops_head", "peak_memory_bytes", "seconds", "seconds_per_image"),
}

Kind = Literal["quality", "fidelity", "flops", "speed"]


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        key: its name in ``metrics.json``.
        kind: "quality" (of a set of images), "fidelity" (to the unaccelerated images), "flops" (counted),
            or "speed" (speed and memory, which depend on the conditions of the measurement).
        heading: its row in the table of one evaluation. Empty: it is not shown there.
        spec: format there.
        error: key of the error that is shown after ±.
        scale: factor between the stored and the shown number.
        column: its column in tables of several runs. Empty: it is not shown there.
        column_spec: format there. Empty: as ``spec``.
        in_sweep: also shown in the table of a sweep, which has little room.
        is_share: a share of the images. It is shown with its Wilson interval, where their number is known.
        min_images: tables leave the number out for fewer images, which say nothing about it.
    """

    key: str
    kind: Kind
    heading: str = ""
    spec: str = ".4g"
    error: str = ""
    scale: float = 1.0
    column: str = ""
    column_spec: str = ""
    in_sweep: bool = False
    is_share: bool = False
    min_images: int = 0

    @property
    def better(self) -> Literal["higher", "lower", ""]:
        """Whether the number is better when it is high or low; empty for errors, counts and conditions."""
        return "higher" if self.key in _HIGHER else "lower" if self.key in _LOWER else ""

    def text(self, metrics: Mapping[str, Any]) -> str:
        """The number with its error, for the table of one evaluation; a missing number is a dash."""
        return self._formatted(metrics, self.spec, self.error)

    def cell(self, metrics: Mapping[str, Any]) -> str:
        """The number for a table of several runs, where ± stands for standard errors alone."""
        error = self.error if self.error.endswith("_std_error") else ""
        return self._formatted(metrics, self.column_spec or self.spec, error)

    def _formatted(self, metrics: Mapping[str, Any], spec: str, error: str) -> str:
        value, deviation = metrics.get(self.key), metrics.get(error)
        count = metrics.get("num_images")
        if value is None or (count is not None and count < self.min_images):
            return "–"
        if self.is_share and count is not None and count >= 1:
            return self.with_interval(value, *wilson_interval(value, count), spec)
        text = self.number(value, spec)
        return text if deviation is None or text == "equal" else f"{text} ± {self.number(deviation, spec)}"

    def number(self, value: float, spec: str | None = None) -> str:
        """A value of this metric as text, without an error; by default in the format of tables."""
        if self.key == "psnr" and value >= EQUAL_IMAGES_PSNR:
            return "equal"
        text = format(value * self.scale, self.column_spec or self.spec if spec is None else spec)
        # A number that rounds to zero has no sign.
        return text[1:] if text.startswith("-") and not any(digit in text for digit in "123456789") else text

    def with_interval(self, value: float, low: float, high: float, spec: str | None = None) -> str:
        """A value with the bounds of its interval: 97.5% (95.0–98.8%); with signs, +0.5 (−0.1 to +1.1)."""
        lower, upper = self.number(low, spec).removesuffix("%"), self.number(high, spec)
        signed = (spec or self.column_spec or self.spec).startswith("+")
        return f"{self.number(value, spec)} ({lower}{' to ' if signed else '–'}{upper})"


# In the order of all tables.
METRICS = (
    Metric("num_images", "quality", "images", ".0f"),
    Metric(
        "recognised",
        "quality",
        "recognised",
        ".2%",
        error="recognised_std_error",
        column="recognised",
        column_spec=".1%",
        in_sweep=True,
        is_share=True,
    ),
    Metric("recognised_std_error", "quality"),
    Metric(
        "fid", "quality", "FID", ".3f", error="fid_std_error", column="FID", column_spec=".2f", in_sweep=True
    ),
    Metric("fid_std_error", "quality"),
    Metric("fid_bias", "quality", "FID of a perfect generator", ".3f"),
    Metric("kid", "quality", "KID × 1000", ".3f", error="kid_std", scale=1e3, min_images=KID_IMAGES),
    Metric("kid_std", "quality"),
    Metric("cmmd", "quality", "CMMD", ".3f", column="CMMD"),
    Metric("inception_score", "quality", "Inception Score", ".2f", error="inception_score_std", column="IS"),
    Metric("inception_score_std", "quality"),
    Metric("precision", "quality", "precision", ".3f", column="precision", is_share=True),
    Metric("recall", "quality", "recall", ".3f", column="recall", is_share=True),
    Metric(
        "psnr",
        "fidelity",
        "PSNR vs. unaccelerated, dB",
        ".2f",
        column="PSNR, dB",
        column_spec=".1f",
        in_sweep=True,
    ),
    Metric("psnr_std", "fidelity"),
    Metric("ssim", "fidelity", "SSIM vs. unaccelerated", ".4f"),
    Metric("lpips", "fidelity", "LPIPS vs. unaccelerated", ".4f"),
    Metric("latent_mse", "fidelity", "latent MSE vs. unaccelerated", ".3g", column="latent MSE"),
    Metric("latent_mse_std", "fidelity"),
    Metric("fidelity_images", "fidelity"),
    Metric("latency_s_per_image", "speed", "seconds per image (median)", column="s/image"),
    Metric("latency_s_per_image_min", "speed"),
    Metric("latency_s_per_image_max", "speed"),
    Metric("throughput_img_s", "speed", "images per second"),
    Metric("batch_size", "speed"),
    Metric("num_devices", "speed"),
    Metric(
        "tflops_per_image", "flops", "TFLOPs per image", column="TFLOPs", column_spec=".3g", in_sweep=True
    ),
    Metric("tflops_encoder", "flops"),
    Metric("tflops_decoder", "flops"),
    Metric("tflops_head", "flops"),
    Metric("speedup", "speed", "speedup over unaccelerated", ".2f", column="speedup", in_sweep=True),
    Metric("speedup_min", "speed"),
    Metric("speedup_max", "speed"),
    Metric("achieved_flops", "speed"),
    Metric("peak_flops", "speed"),
    Metric("peak_memory_bytes", "speed", "peak memory, MiB", ".0f", scale=2.0**-20),
)
# Numbers of generate, which has none of the above. They are in its run.json, and sweeps show them.
GENERATE_METRICS = (
    Metric("seconds", "speed"),
    Metric("seconds_per_image", "speed", column="s/image", in_sweep=True),
    Metric("images_per_second", "speed"),
    Metric("num_processes", "speed"),
)
# Shares of right images by category, and their mean.
SCENE_SCORES = tuple(
    Metric(
        key,
        "quality",
        "scene score" if words == "score" else f"scene score, {words}",
        ".3f",
        column=words,
        in_sweep=words == "score",
    )
    for key, words in _SCENES.items()
)
# Differences to another setting on common random numbers (:mod:`mar_accel.metrics.paired`).
DIFFERENCES = (
    Metric("recognised_difference", "quality", column="Δ recognised", column_spec="+.1%"),
    Metric("class_score_difference", "quality", column="Δ class score", column_spec="+.3f"),
    Metric("fid_difference", "quality", column="Δ FID", column_spec="+.2f"),
    *(
        Metric(f"{score.key}_difference", "quality", column=f"Δ {score.column}", column_spec="+.3f")
        for score in SCENE_SCORES
    ),
)
# All numbers that one run has.
OF_A_RUN = (*METRICS, *SCENE_SCORES, *GENERATE_METRICS)
# Scripts rely on these keys: they are always in metrics.json, and null if they were not measured.
METRIC_KEYS = tuple(metric.key for metric in METRICS)


def keys_of(kind: Kind, metrics: Sequence[Metric] = METRICS) -> tuple[str, ...]:
    """The keys of all metrics of a kind.

    Example:
        >>> keys_of("flops")
        ('tflops_per_image', 'tflops_encoder', 'tflops_decoder', 'tflops_head')
    """
    return tuple(metric.key for metric in metrics if metric.kind == kind)
