"""Where the time goes: encoder, decoder, head, autoencoder, overhead; and what every AR step does."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch

from mar_accel.evaluation.collect import synchronise
from mar_accel.inference.module import InferenceModule
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import DecodeState
from mar_accel.utils.progress import busy

COMPONENTS = ("encoder", "decoder", "head", "autoencoder", "overhead")


@dataclass
class Profile:
    """One batch, taken apart.

    Attributes:
        seconds: per image, by component; their sum is the batch's time per image.
        steps: one record per AR step: the plan's numbers and the seconds per image of backbone and head.
    """

    seconds: dict[str, float]
    steps: list[dict[str, float]] = field(default_factory=list)

    def shares(self) -> dict[str, float]:
        """Share of the time of each component; they add up to 1."""
        total = sum(self.seconds.values())
        return {name: seconds / total for name, seconds in self.seconds.items()}


class _Clock:
    """Synchronised seconds by name."""

    def __init__(self, device: torch.device):
        self.device = device
        self.totals: dict[str, float] = defaultdict(float)
        self.encoder_end = 0.0

    def now(self) -> float:
        synchronise(self.device)
        return time.perf_counter()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        self.totals[name] += self.now() - start


class _TimedCache:
    """A cache policy whose conditioning vectors are timed; everything else is the policy's own."""

    def __init__(self, policy: Any, clock: _Clock):
        self.policy, self.clock = policy, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Any:
        start = self.clock.encoder_end = self.clock.now()
        z = self.policy.conditioning_vectors(state, step)
        self.clock.totals["encoder"] += self.clock.encoder_end - start
        self.clock.totals["backbone"] += self.clock.now() - start
        return z


class _TimedSolver:
    """A head solver whose chains are timed."""

    def __init__(self, solver: Any, clock: _Clock):
        self.solver, self.clock = solver, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.solver, name)

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        with self.clock.measure("head"):
            return self.solver.sample(*args, **kwargs)


@contextmanager
def _timed(module: InferenceModule, clock: _Clock, steps: list[dict[str, float]]) -> Iterator[None]:
    """Put clocks around a module's parts, and take them away again."""
    cache, solver, on_ar_step = module.cache, module.sampler.solver, module.on_ar_step
    decode_images = module.autoencoder.decode
    before = dict.fromkeys(("backbone", "head"), 0.0)

    def timed_decode(latents: torch.Tensor) -> torch.Tensor:
        with clock.measure("autoencoder"):
            return decode_images(latents)

    def encoder_ends(*_: Any) -> None:
        # Every policy ends its work in the encoder with this norm, whatever it kept of it.
        clock.encoder_end = clock.now()

    def record_step(step: ARStep, state: DecodeState) -> None:
        record = {
            "index": step.index,
            "stage": step.stage,
            "tokens": step.num_tokens,
            "guidance_scale": step.guidance_scale,
            "diffusion_steps": step.num_diffusion_steps,
            "detail_tokens": step.num_detail_tokens,
        }
        for part in before:
            record[f"{part}_seconds"] = (clock.totals[part] - before[part]) / state.batch_size
            before[part] = clock.totals[part]
        steps.append(record)

    module.cache = _TimedCache(cache, clock)  # type: ignore[assignment]
    module.sampler.solver = _TimedSolver(solver, clock)
    module.autoencoder.decode = timed_decode  # type: ignore[method-assign]
    module.on_ar_step = record_step
    hook = module.model.encoder_norm.register_forward_pre_hook(encoder_ends)
    try:
        yield
    finally:
        module.cache, module.sampler.solver, module.on_ar_step = cache, solver, on_ar_step
        del module.autoencoder.decode
        hook.remove()


class Profiler(pl.Callback):
    """Samples the first batch of a prediction once more at its end, with clocks around the parts.

    Attributes:
        profile: of this process's device; None before the prediction has ended.
    """

    def __init__(self) -> None:
        self.profile: Profile | None = None
        self._batch: Any = None

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._batch = self._batch or batch

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        with busy("where the time goes"), trainer.precision_plugin.predict_step_context():
            self.profile = profile_batch(pl_module, self._batch)


def profile_batch(module: InferenceModule, batch: tuple[torch.Tensor, torch.Tensor]) -> Profile:
    """Sample a batch (indices and labels, on the module's device) with clocks around the parts.

    The clocks wait for the device, which makes it a little slower than it is without them.
    """
    clock, steps = _Clock(module.device), []  # type: tuple[_Clock, list[dict[str, float]]]
    with _timed(module, clock, steps):
        start = clock.now()
        module.predict_step(batch, 0)
        total = clock.now() - start
    measured = clock.totals
    seconds = {
        "encoder": measured["encoder"],
        "decoder": measured["backbone"] - measured["encoder"],
        "head": measured["head"],
        "autoencoder": measured["autoencoder"],
    }
    seconds["overhead"] = max(0.0, total - sum(seconds.values()))
    return Profile({name: value / len(batch[0]) for name, value in seconds.items()}, steps)
