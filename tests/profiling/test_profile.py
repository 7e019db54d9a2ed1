"""Where the time goes: every component has its seconds, and profiling leaves a module as it was."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from mar_accel.config.compose import compose_settings
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.session import Session
from mar_accel.models.autoencoders import PixelAutoencoder
from mar_accel.models.mar import MAR
from mar_accel.profiling import profile
from mar_accel.profiling.flops import count_flops
from mar_accel.profiling.profile import profile_batch
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.state import DecodeState

from ..tiny import tiny_config

BATCH = torch.tensor([0, 1]), torch.tensor([3, 1])
NUM_STEPS = 6


def _module(cache: str) -> InferenceModule:
    overrides = [f"sampler.num_iter={NUM_STEPS}", "sampler.num_diffusion_steps=4", f"cache={cache}"]
    settings = compose_settings("generate", [*overrides, "sampler.guidance_scale=2"])
    torch.manual_seed(0)
    model = MAR(tiny_config(grid=(8, 8), patch_size=2, latent_channels=1)).eval()
    return InferenceModule(
        Session.of(model, PixelAutoencoder(), build_sampler(settings), build_cache(settings))
    )


@pytest.mark.parametrize("cache", ["none", "lazymar"])
def test_each_component_has_its_ticks(monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    """Under a clock that ticks whenever it is read, the seconds are numbers of events."""
    ticks = itertools.count()
    monkeypatch.setattr(profile._Clock, "now", lambda self: float(next(ticks)))
    result = profile_batch(_module(cache), BATCH)
    # Per image: an encoder, a decoder and a head per AR step; one autoencoder.
    parts = ("encoder", "decoder", "head", "autoencoder")
    assert [result.seconds[name] for name in parts] == [NUM_STEPS / 2] * 3 + [0.5]
    # Five times are read per AR step, three intervals of which belong to a component.
    assert result.seconds["overhead"] == (5 * NUM_STEPS + 3 - 3 * NUM_STEPS - 1) / 2
    assert sum(result.shares().values()) == pytest.approx(1)
    assert [step["index"] for step in result.steps] == list(range(NUM_STEPS))
    assert all(step["backbone_seconds"] == 1 and step["head_seconds"] == 0.5 for step in result.steps)


class Unannounced(CachePolicy):
    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> torch.Tensor:
        return state.model(state.condition_of(step), *state.known(step), state.predicted(step))


def test_a_backbone_that_is_not_told_apart_is_the_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(profile._Clock, "now", lambda self: float(next(ticks)))
    session = _module("none").session
    unannounced = InferenceModule(session.with_sampling(session.sampler, Unannounced()))
    seconds = profile_batch(unannounced, BATCH).seconds
    assert (seconds["encoder"], seconds["decoder"]) == (NUM_STEPS / 2, 0)
    counted = count_flops(session.model.config, session.sampler, Unannounced())
    assert counted.encoder > 0 and counted.decoder == 0


def test_profiling_leaves_the_module_as_it_was() -> None:
    module = _module("none")
    sampler, cache = module.session.sampler, module.session.cache
    objects: list[Any] = [sampler, sampler.solver, cache, *module.modules()]
    expected = module.predict_step(BATCH, 0).images
    before = [dict(vars(thing)) for thing in objects]
    hooks = sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules())
    profile_batch(module, BATCH)
    assert [dict(vars(thing)) for thing in objects] == before
    assert hooks == sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules())
    assert torch.equal(module.predict_step(BATCH, 0).images, expected)


def test_a_modules_observers_hear_predictions_and_no_profile() -> None:
    class Recorder(Observer):
        def __init__(self) -> None:
            self.steps: list[int] = []
            self.shapes: list[torch.Size] = []

        def step_end(self, state: DecodeState, step: ARStep) -> None:
            self.steps.append(step.index)

        def autoencoder_start(self, latents: torch.Tensor) -> None:
            self.shapes.append(latents.shape)

        def autoencoder_end(self, images: torch.Tensor) -> None:
            self.shapes.append(images.shape)

    module, recorder = _module("none"), Recorder()
    expected = module.predict_step(BATCH, 0).images
    module.observers.append(recorder)
    images = module.predict_step(BATCH, 0).images
    assert recorder.steps == list(range(NUM_STEPS)) and recorder.shapes == [(2, 1, 16, 16)] * 2
    assert torch.equal(images, expected)
    profile_batch(module, BATCH)
    assert len(recorder.steps) == NUM_STEPS
