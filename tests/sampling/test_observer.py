"""Observers see every event of a decode in order, and change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mar_accel.config.compose import compose_settings
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.models.mar import MAR
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.denoiser import GuidedDenoiser
from mar_accel.sampling.observer import Chain, Observer, Observers
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.state import DecodeState

from ..tiny import tiny_config, with_an_active_head

SHORT = ["sampler.num_iter=8", "sampler.num_diffusion_steps=4", "sampler.guidance_scale=2"]
# Steps 3, 5 and 7 are lazy.
LAZY = ["cache=lazymar", "cache.refresh.warmup_steps=2", "cache.refresh.period=2"]
TWO_CHAINS = ["sampler/selection=fts", "sampler.selection.num_diffusion_steps=6"]
BATCH = 2


@pytest.fixture(scope="module")
def model() -> MAR:
    torch.manual_seed(0)
    return with_an_active_head(MAR(tiny_config(grid=(8, 8))).eval())


def _decode(model: MAR, overrides: list[str], observer: Observer | None = None) -> Tensor:
    config = compose_settings("generate", [*SHORT, *overrides])
    sampler, cache = build_sampler(config), build_cache(config)
    plan = sampler.plan(model.config.grid)
    engine = Engine(model, plan, sampler.solver, cache, sampler.selection)
    noise = sampler.draw(plan, 0, range(BATCH), model.config.token_dim)
    return decode(engine, model.condition(torch.arange(BATCH)), noise, observer)


class Recorder(Observer):
    """Keeps the names of all events, with the index of their AR step."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int | None]] = []
        self.encoded_shapes: list[tuple[int, ...]] = []
        self.num_steps = 0

    def start(self, state: DecodeState) -> None:
        self.num_steps = len(state.plan.steps)
        self.events.append(("start", None))

    def step_start(self, state: DecodeState, step: ARStep) -> None:
        self.events.append(("step_start", step.index))

    def encoded(self, state: DecodeState, step: ARStep, x: Tensor) -> None:
        self.encoded_shapes.append(tuple(x.shape))
        self.events.append(("encoded", step.index))

    def conditioning(self, state: DecodeState, step: ARStep, z: Tensor) -> None:
        assert z.shape[:2] == (2 * BATCH, step.num_tokens)
        self.events.append(("conditioning", step.index))

    def chain_start(self, state: DecodeState, step: ARStep, chain: Chain) -> None:
        self.events.append(("chain_start", step.index))

    def chain_end(self, state: DecodeState, step: ARStep, chain: Chain, tokens: Tensor) -> None:
        assert len(tokens) == chain.positions.numel() == len(chain.z) // 2 == chain.noise.shape[1]
        self.events.append(("chain_end", step.index))

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        assert bool(state.decoded[:, step.start : step.stop].abs().sum() > 0)
        self.events.append(("step_end", step.index))

    def finish(self, state: DecodeState) -> None:
        self.events.append(("finish", None))


def _expected(num_steps: int, chains: list[int]) -> list[tuple[str, int | None]]:
    """The events of a decode whose AR steps run these numbers of chains."""
    events: list[tuple[str, int | None]] = [("start", None)]
    for k in range(num_steps):
        names = ["step_start", "encoded", "conditioning", *["chain_start", "chain_end"] * chains[k]]
        events += [(name, k) for name in [*names, "step_end"]]
    return [*events, ("finish", None)]


@pytest.mark.parametrize("cache", [["cache=none"], LAZY, [*LAZY, "cache.token=null"], ["cache=head"]])
def test_every_event_in_order_and_the_same_tokens(model: MAR, cache: list[str]) -> None:
    first, second = Recorder(), Recorder()
    tokens = _decode(model, cache, Observers([first, second]))
    assert first.num_steps == 8
    assert first.events == _expected(8, [1] * 8) == second.events
    assert torch.equal(tokens, _decode(model, cache))


def test_each_group_of_tokens_has_its_chain(model: MAR) -> None:
    """The chosen tokens of the last stage have more diffusion steps than the others."""
    recorder = Recorder()
    tokens = _decode(model, TWO_CHAINS, recorder)
    chains = [recorder.events.count(("chain_start", k)) for k in range(8)]
    assert recorder.events == _expected(8, chains) and max(chains) == 2
    assert torch.equal(tokens, _decode(model, TWO_CHAINS))


def test_lazy_steps_announce_the_encoder_too(model: MAR) -> None:
    """They encode the buffer and the tokens decoded last, of one branch."""
    recorder = Recorder()
    _decode(model, LAZY, recorder)
    lazy = [k for k, shape in enumerate(recorder.encoded_shapes) if shape[0] == BATCH]
    assert lazy == [3, 5, 7] and len(recorder.encoded_shapes) == 8


def test_a_chain_can_be_run_again(model: MAR) -> None:
    class Again(Observer):
        chains = 0

        def chain_end(self, state: DecodeState, step: ARStep, chain: Chain, tokens: Tensor) -> None:
            denoise = GuidedDenoiser(chain.net, chain.z, chain.time_embeddings, step.guidance, chain.guided)
            assert torch.equal(chain.run(denoise), tokens)
            self.chains += 1

    again = Again()
    _decode(model, ["cache=none"], again)
    assert again.chains == 8


def test_several_observers_hand_on_every_event() -> None:
    """An event that ``Observers`` forgot would be lost without a word."""
    events = {name for name in vars(Observer) if not name.startswith("_")}
    assert events
    for name in events:
        heard: list[Any] = []
        listener = Observer()
        setattr(listener, name, lambda *args, heard=heard: heard.append(args))
        arguments = tuple(range(getattr(Observer, name).__code__.co_argcount - 1))
        getattr(Observers([listener, listener]), name)(*arguments)
        assert heard == [arguments, arguments], name
