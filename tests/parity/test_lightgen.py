"""LightGen agrees with the recorded outputs and the published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mar_accel.config.compose import compose_settings
from mar_accel.models.families import architecture_of
from mar_accel.models.lightgen import LightGen, LightGenConfig
from mar_accel.profiling.flops import count_flops
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.diffusion_steps import ConstantDiffusionSteps
from mar_accel.sampling.guidance import ConstantGuidance, GuidanceSchedule, LinearGuidance
from mar_accel.sampling.noise import SampleNoise
from mar_accel.sampling.orders import RandomOrder
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import NoCache
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.selection import NoSelection
from mar_accel.sampling.solvers import DDPM
from mar_accel.sampling.state import DecodeState
from mar_accel.sampling.step_sizes import CosineSteps

from .cases import assert_close, manifests, paths_of, read, shapes, weights_of


class Recorder(NoCache):
    """Keeps the conditioning vectors of every step, rows in (image, position) order."""

    def __init__(self) -> None:
        self.recorded: dict[int, Tensor] = {}

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        z = super().conditioning_vectors(state, step)
        rows = state.predicted(step).argsort(dim=1)
        rows = rows.repeat(len(z) // len(rows), 1)
        self.recorded[step.index] = z.gather(1, rows.unsqueeze(-1).expand_as(z)).flatten(0, 1)
        return z


def _architecture(case: dict[str, Any]) -> LightGenConfig:
    names = LightGenConfig.__dataclass_fields__
    settings = {key: value for key, value in case.items() if key in names}
    return LightGenConfig(**settings, latent_channels=case["vae_embed_dim"])


def _sampler(
    num_iter: int, diffusion_steps: int, guidance: GuidanceSchedule, scale: float, temperature: float = 1.0
) -> Sampler:
    """MAR's published sampler of K AR steps and T diffusion steps."""
    return Sampler(
        order=RandomOrder(),
        step_sizes=CosineSteps(num_iter),
        guidance_schedule=guidance,
        diffusion_steps=ConstantDiffusionSteps(diffusion_steps),
        solver=DDPM(),
        selection=NoSelection(),
        guidance_scale=scale,
        temperature=temperature,
        max_timestep=None,
    )


@pytest.mark.parametrize("path", paths_of(text_models=True), ids=lambda path: path.stem)
@torch.inference_mode()
def test_recorded_decode(path: Path) -> None:
    case, tensors = read(path)
    model = LightGen(_architecture(case)).eval()
    model.load_state_dict(weights_of(tensors))
    guidance = {"linear": LinearGuidance, "constant": ConstantGuidance}[case["cfg_schedule"]]()
    sampler = _sampler(case["num_iter"], case["diffusion_steps"], guidance, case["cfg"], case["temperature"])
    plan = sampler.plan(model.config.grid)
    assert [step.num_tokens for step in plan.steps] == case["tokens_per_step"]
    batch, recorder = len(tensors["orders"]), Recorder()
    noise = SampleNoise(tensors["orders"].flip(1), tensors["noise"], torch.zeros(batch, plan.num_tokens))
    engine = Engine(model, plan, sampler.solver, recorder, sampler.selection)
    tokens = decode(engine, model.condition(tensors["text_embeddings"]), noise)
    for step in case["z_steps"]:
        assert_close(recorder.recorded[step], tensors[f"z_step{step}"], f"z of step {step}")
    assert_close(tokens, tensors["tokens"], "tokens")
    assert_close(model.unpatchify(tokens), tensors["latents"], "latents")


SIZES: dict[str, dict[str, int]] = {
    "base": {},
    "large": {"embed_dim": 1024, "num_heads": 16, "head_width": 1536},
    "huge": {"embed_dim": 1280, "num_heads": 16, "head_width": 1536},
}
DEPTHS = {"base": 12, "large": 16, "huge": 20}


LAYOUTS = {path.stem.removeprefix("lightgen_fluid_"): path for path in manifests()}


@pytest.mark.parametrize("size", sorted(SIZES.keys() & LAYOUTS.keys()))
def test_published_layout(size: str) -> None:
    """Every key and shape of a published checkpoint is one of ours, and no other."""
    depths = dict.fromkeys(("encoder_depth", "decoder_depth", "cross_depth"), DEPTHS[size])
    with torch.device("meta"):
        model = LightGen(LightGenConfig(**SIZES[size], **depths))  # type: ignore[arg-type]
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == shapes(LAYOUTS[size])


@torch.inference_mode()
def test_one_key_is_the_repeated_vector() -> None:
    config = LightGenConfig(grid=(4, 4), train_grid=(4, 4), embed_dim=24, num_heads=3, caption_channels=8)
    model = LightGen(config).eval()
    decoded, positions = torch.randn(2, 5, 24), torch.arange(5).expand(2, 5)
    repeated = model.condition_on(model.fake_latent.expand(2, 7, -1))
    expected = model.part_branches(decoded, positions, repeated)
    torch.testing.assert_close(model.part_branches(decoded, positions, model.unconditional(2)), expected)


def test_an_image_of_scenes_is_cheap() -> None:
    """At MAR's slow setting, 64 AR steps of 100 diffusion steps; tables of the model take hours then."""
    architecture = architecture_of(
        compose_settings("train", ["model=scenes", "dataset=scenes"]).model.architecture
    )
    count = count_flops(architecture, _sampler(64, 100, LinearGuidance(), 3.0), NoCache())
    assert 0.08e12 < count.total < 0.15e12
