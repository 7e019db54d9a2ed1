"""Time by component (encoder, decoder, head, autoencoder, overhead) and by AR step."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch

from mar_accel.inference.module import InferenceModule
from mar_accel.profiling.timer import synchronise
from mar_accel.sampling.observer import Chain, Observer
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.state import DecodeState
from mar_accel.utils.progress import busy


@dataclass
class Profile:
    """Time profile of one batch.

    Attributes:
        seconds: seconds per image by component; their sum is the batch's time per image.
        steps: one record per AR step, with the plan's numbers and the times of backbone and head.
            Times are in seconds per image.
    """

    seconds: dict[str, float]
    steps: list[dict[str, float]] = field(default_factory=list)

    def shares(self) -> dict[str, float]:
        """Share of the time by component; the shares add up to 1."""
        total = sum(self.seconds.values())
        return {name: seconds / total for name, seconds in self.seconds.items()}


class _Clock(Observer):
    """Measures the seconds of each component; it synchronises the device before it reads the time.

    Attributes:
        totals: seconds by component, and of the backbone (encoder and decoder).
        steps: one record per AR step.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.totals = dict.fromkeys(("encoder", "backbone", "head", "autoencoder"), 0.0)
        self.steps: list[dict[str, float]] = []
        self._before = dict(self.totals)
        self._start = 0.0
        self._encoded: float | None = None

    def now(self) -> float:
        synchronise(self.device)
        return time.perf_counter()

    def step_start(self, state: DecodeState, step: ARStep) -> None:
        self._before = dict(self.totals)
        self._start, self._encoded = self.now(), None

    def encoded(self, state: DecodeState, step: ARStep, x: torch.Tensor) -> None:
        self._encoded = self.now()

    def conditioning(self, state: DecodeState, step: ARStep, z: torch.Tensor) -> None:
        end = self.now()
        self.totals["encoder"] += (end if self._encoded is None else self._encoded) - self._start
        self.totals["backbone"] += end - self._start

    def chain_start(self, state: DecodeState, step: ARStep, chain: Chain) -> None:
        self._start = self.now()

    def chain_end(self, state: DecodeState, step: ARStep, chain: Chain, tokens: torch.Tensor) -> None:
        self.totals["head"] += self.now() - self._start

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        record = {
            "index": step.index,
            "stage": step.stage,
            "tokens": step.num_tokens,
            "guidance_scale": step.guidance_scale,
            "diffusion_steps": step.num_diffusion_steps,
            "detail_tokens": step.num_detail_tokens,
        }
        for part in ("backbone", "head"):
            record[f"{part}_seconds"] = (self.totals[part] - self._before[part]) / state.batch_size
        self.steps.append(record)

    def autoencoder_start(self, latents: torch.Tensor) -> None:
        self._start = self.now()

    def autoencoder_end(self, images: torch.Tensor) -> None:
        self.totals["autoencoder"] += self.now() - self._start


class Profiler(pl.Callback):
    """Samples the first batch of a prediction again at the end, and profiles it.

    Attributes:
        profile: profile on this process's device; None until the prediction has ended.
    """

    def __init__(self) -> None:
        self.profile: Profile | None = None
        self._batch: Any = None

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._batch = self._batch or batch

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        with busy("profiling"), trainer.precision_plugin.predict_step_context():
            # Of a batch that did not fit into memory, only what fits is profiled.
            indices, labels = (part[: pl_module.largest_batch] for part in self._batch)
            self.profile = profile_batch(pl_module, (indices, labels))


def profile_batch(module: InferenceModule, batch: tuple[torch.Tensor, torch.Tensor]) -> Profile:
    """Sample a batch and profile it.

    The clock synchronises the device, so the batch takes slightly longer than normal.

    Args:
        module: the module to profile.
        batch: sample indices [B] and labels [B], on the module's device.
    """
    clock = _Clock(module.device)
    start = clock.now()
    indices, labels = batch
    module.session.sample(indices.tolist(), labels, clock)
    total, measured = clock.now() - start, clock.totals
    seconds = {
        "encoder": measured["encoder"],
        "decoder": measured["backbone"] - measured["encoder"],
        "head": measured["head"],
        "autoencoder": measured["autoencoder"],
    }
    seconds["overhead"] = max(0.0, total - sum(seconds.values()))
    return Profile({name: value / len(batch[0]) for name, value in seconds.items()}, clock.steps)
