"""What a setting costs, known before a run: counted FLOPs, or measured seconds of a few batches."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from mar_accel.config.image_size import size_in_pixels
from mar_accel.config.settings import Settings, SweepSettings
from mar_accel.errors import ConfigError
from mar_accel.evaluation.unaccelerated import unaccelerated
from mar_accel.inference.build import build_sampling
from mar_accel.inference.inpainting import load_masks
from mar_accel.inference.plans import Plans
from mar_accel.inference.session import Session
from mar_accel.inference.trainer import on_one_device
from mar_accel.profiling.flops import count_mean
from mar_accel.profiling.interleaved import measure_interleaved
from mar_accel.runs.identity import decides_per_batch, digest

# What this process has counted. A search compares every trial with the same unaccelerated sampler.
_COUNTED: dict[str, float] = {}
# Rounds of one batch each, after one to warm up.
TIMING_ROUNDS = 3


class Target(Protocol):
    """The cost that settings are to have.

    Attributes:
        unit: what is compared, for messages.
    """

    unit: str

    def excess(self, settings: Settings) -> float:
        """Logarithm of a setting's cost over the wanted one; zero: it has the wanted cost.

        Raises:
            ConfigError: sampler, cache and model cannot be combined, or the cost is not known beforehand.
        """


class CountedFlops:
    """A number of TFLOPs per image, or the unaccelerated sampler's divided by a factor."""

    unit = "FLOPs"

    def __init__(self, tflops: float | None = None, ratio: float | None = None):
        self._tflops, self._ratio = tflops, ratio

    def excess(self, settings: Settings) -> float:
        """See :class:`Target`."""
        own, wanted = counted_tflops(settings), self._tflops
        if self._ratio is not None:
            plain = counted_tflops(unaccelerated(settings))
            wanted = None if plain is None else plain / self._ratio
        if own is None or wanted is None:
            raise ConfigError(
                "sweep.adjust needs costs that are known before sampling, which adaptive refresh does not "
                "have; use sweep.latency or sweep.speedup, which are measured."
            )
        return math.log(own / wanted)


class MeasuredTime:
    """Seconds per image on this machine and one device, or a speedup over the unaccelerated sampler.

    Setting and unaccelerated sampler are timed in turn, so that other load changes both.
    """

    unit = "seconds per image, measured"

    def __init__(self, latency: float | None = None, speedup: float | None = None):
        self._latency, self._speedup = latency, speedup
        self._first: tuple[Settings, Session] | None = None

    def excess(self, settings: Settings) -> float:
        """See :class:`Target`."""
        settings = replace(settings, trainer=on_one_device(settings.trainer))
        timed = [settings] if self._speedup is None else [settings, unaccelerated(settings)]
        sessions = [self._session(own) for own in timed]
        measured = measure_interleaved(settings, sessions, TIMING_ROUNDS, Path(settings.output_dir))
        own, *others = (statistics.median(numbers.latencies) for numbers in measured)
        wanted = self._latency if self._speedup is None else others[0] / self._speedup
        assert wanted is not None
        return math.log(own / wanted)

    def _session(self, settings: Settings) -> Session:
        """The session of some settings; weights are loaded once for all settings of a model."""
        if self._first is None or self._first[0].model != settings.model:
            self._first = (settings, Session.from_settings(settings))
        return self._first[1].with_settings(settings, self._first[0])


def target_of(settings: SweepSettings) -> Target:
    """The cost that ``sweep.flops_ratio``, ``.tflops``, ``.latency`` or ``.speedup`` asks for."""
    if settings.latency is not None or settings.speedup is not None:
        return MeasuredTime(settings.latency, settings.speedup)
    return CountedFlops(settings.tflops, settings.flops_ratio)


def counted_tflops(settings: Settings) -> float | None:
    """TFLOPs per image of a setting; None with adaptive refresh, which decides while it samples.

    Raises:
        ConfigError: sampler, cache and model cannot be combined.
    """
    if decides_per_batch(settings):
        return None
    architecture, sampler, cache, _ = build_sampling(settings)
    plans = Plans(architecture, sampler, cache, settings.seed, _masks(settings))
    counted = plans.counted(settings.dataset.num_images)
    # Seeds and masks count only where the plans depend on them.
    content = digest([asdict(settings.model), settings.sampler, settings.cache, repr(counted)])
    if content not in _COUNTED:
        _COUNTED[content] = count_mean(architecture, sampler, cache, counted).total / 1e12
    return _COUNTED[content]


def _masks(settings: Settings) -> Tensor | None:
    """The masks of a data set of inpainted images, which are read without the model's weights."""
    if settings.dataset.images is None:
        return None
    return load_masks(settings.dataset, size_in_pixels(settings.model))


def flops_ratio(settings: Settings) -> float | None:
    """How many times as many FLOPs the unaccelerated sampler needs; None if they are not known before."""
    own = counted_tflops(settings)
    plain = counted_tflops(unaccelerated(settings))
    return None if own is None or plain is None else plain / own
