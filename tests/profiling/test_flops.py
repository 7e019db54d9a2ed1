"""FLOPs: against a count by hand, against torch's counter of a real run, against the published numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mar_accel.config.compose import compose_settings
from mar_accel.inference.build import build_sampler
from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.profiling.flops import count_flops
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.denoiser import Denoiser
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import CachePolicy, NoCache
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.state import DecodeState

from ..tiny import tiny_config

TINY = tiny_config(decoder_depth=3, head_width=12)
HUGE = MARConfig(
    embed_dim=1280, num_heads=16, encoder_depth=20, decoder_depth=20, head_depth=12, head_width=1536
)


def _sampler(*overrides: str) -> Sampler:
    return build_sampler(compose_settings("generate", ["model=digits", *overrides]))


def _short(*overrides: str) -> Sampler:
    return _sampler("sampler=mar", "sampler.num_iter=3", "sampler.num_diffusion_steps=5", *overrides)


def _products_of_block(queries: int, tokens: int, width: int) -> int:
    """FLOPs of a transformer block: keys and values of all tokens, the rest of the queries alone."""
    qkv = 2 * width * width * (queries + 2 * tokens)
    attention = 2 * 2 * queries * tokens * width
    return qkv + attention + 2 * queries * width * width * (1 + 4 + 4)


def test_equals_a_count_by_hand() -> None:
    d, w, c, buffer, length = 8, 12, 3, 2, 16
    encoder = decoder = head = 0
    sampler = _short("sampler.guidance_scale=2")
    for step in sampler.plan(TINY.grid).steps:
        known, n = step.start, step.num_tokens
        encoder += 2 * known * c * d  # tokens are embedded once for both branches
        encoder += 2 * 2 * _products_of_block(buffer + known, buffer + known, d)
        decoder += 2 * 2 * (buffer + known) * d * d
        decoder += 2 * 2 * _products_of_block(buffer + length, buffer + length, d)
        decoder += 2 * _products_of_block(n, buffer + length, d)
        residual_block = 2 * w * w * (3 + 1 + 1)
        evaluation = 2 * c * w + 2 * residual_block + 2 * w * w * 2 + 2 * w * 2 * c
        head += 2 * n * (2 * d * w + 5 * evaluation)
    head += 2 * 5 * (256 * w + w * w)  # the five timesteps' embeddings
    count = count_flops(TINY, sampler, NoCache())
    assert (count.encoder, count.decoder, count.head) == (encoder, decoder, head)
    assert count.total == encoder + decoder + head == sum(count.per_step)


class EverySecondTimestep(CachePolicy):
    """Answers at odd timesteps with the prediction before, at odd AR steps not at all from the head."""

    def denoiser(
        self, net: AdaLNMLP, z: Tensor, time_embeddings: Tensor, step: ARStep, guided: Sequence[bool]
    ) -> Denoiser:
        evaluate = super().denoiser(net, z, time_embeddings, step, guided)
        kept: list[tuple[Tensor, Tensor]] = []

        def denoise(x: Tensor, index: int) -> tuple[Tensor, Tensor]:
            if step.index % 2:
                return x, x
            if index % 2 and kept:
                return kept[-1]
            kept.append(evaluate(x, index))
            return kept[-1]

        return denoise


@pytest.mark.parametrize(
    ("sampler", "cache"),
    [
        (("sampler.guidance_scale=2",), NoCache()),
        (("sampler.guidance_scale=1",), NoCache()),
        (("sampler.guidance_scale=2",), EverySecondTimestep()),
        *(
            (("sampler.guidance_scale=2", f"sampler/solver={solver}"), cache)
            for solver in ("ddim", "dpm_solver", "dpm_solver_singlestep")
            for cache in (NoCache(), EverySecondTimestep())
        ),
    ],
)
def test_equals_torchs_counter_of_a_real_run(sampler: tuple[str, ...], cache: CachePolicy) -> None:
    parts = _short(*sampler)
    plan, model = parts.plan(TINY.grid), MAR(TINY).eval()
    engine = Engine(model, plan, parts.solver, cache, parts.selection)
    # The counter knows the matrix products of attention, but not the CPU's fused kernel.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        condition = model.condition(torch.tensor([0]))
        decode(engine, condition, parts.draw(plan, 0, [0], TINY.token_dim))
    assert count_flops(TINY, parts, cache).total == counter.get_total_flops()


class OwnPass(CachePolicy):
    """The plain pass put together from the model's parts; told apart where it says ``encoded``."""

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        model, buffer = state.model, state.model.embed_buffer(state.condition_of(step))
        repeats = len(buffer) // state.batch_size
        tokens, known = state.known(step)
        embedded = model.embed_tokens(tokens, known).repeat(repeats, 1, 1)
        x = model.encode(torch.cat([buffer, embedded], dim=1))
        x = model.decoder_inputs(state.encoded(step, x), known.repeat(repeats, 1))
        positions = state.predicted(step).repeat(repeats, 1)
        return model.conditioning_vectors(model.decode(x, positions), positions)


def test_a_policy_of_ones_own_is_told_apart_into_encoder_and_decoder() -> None:
    sampler = _short("sampler.guidance_scale=2")
    assert count_flops(TINY, sampler, OwnPass()) == count_flops(TINY, sampler, NoCache())


def test_counting_leaves_nothing_behind() -> None:
    sampler, cache = _short("sampler.guidance_scale=2"), EverySecondTimestep()
    objects = (sampler, sampler.solver, sampler.selection, cache, AdaLNMLP, MAR, torch.nn.LayerNorm)
    before = [dict(vars(thing)) for thing in objects]
    count_flops(TINY, sampler, cache)
    assert [dict(vars(thing)) for thing in objects] == before


def test_a_step_costs_what_its_cache_computes() -> None:
    sampler = _short("sampler.guidance_scale=2")
    plain, cached = (count_flops(TINY, sampler, cache) for cache in (NoCache(), EverySecondTimestep()))
    assert (cached.encoder, cached.decoder) == (plain.encoder, plain.decoder)
    assert all(0 < a < b for a, b in zip(cached.per_step, plain.per_step, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counted", "printed"),
    [("mar", 63.3, 64.52), ("gtr", 25.8, None), ("gtr_19", 17.1, 17.34), ("gtr_16", 14.8, None)],
)
def test_published_flops_of_the_huge_model(name: str, counted: float, printed: float | None) -> None:
    """TFLOPs of GtR's table (arXiv:2510.17171), and of the three readings of its steps (docs/samplers.md)."""
    sampler = build_sampler(compose_settings("generate", ["model=mar_huge", f"sampler={name}"]))
    total = count_flops(HUGE, sampler, NoCache()).total / 1e12
    assert total == pytest.approx(counted, abs=0.05)
    if printed is not None:
        assert total == pytest.approx(printed, rel=0.02)
