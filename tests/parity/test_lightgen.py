"""LightGen agrees with the recorded outputs and the published layouts.

MAR's decode loop runs with LightGen's backbone behind an adapter that names texts by row.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mar_accel.config.compose import compose_settings
from mar_accel.models.lightgen import LightGen, LightGenConfig, TextKeys
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

TOLERANCE = 1e-4
FOLDER = Path(os.environ.get("MAR_ACCEL_GOLDEN", Path(__file__).parents[1] / "data" / "golden"))


class Adapter(nn.Module):
    """What the decode loop asks of a model: the two branches stand for rows [2B, 1] of nothing."""

    def __init__(self, model: LightGen, text: TextKeys):
        super().__init__()
        self.model, self.config, self.diffloss = model, model.config, model.diffloss
        self.branches = [text, model.unconditional_keys(len(text[0][0]))]

    def unconditional_embedding(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, 1)

    def encode_tokens(self, rows: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
        # The backbone does not depend on the text: the branches share its rows.
        x = self.model.encode(self.model.embed_tokens(tokens, known))
        return x.repeat(len(rows) // len(tokens), 1, 1)

    def predict(self, encoded: Tensor, known: Tensor, predicted: Tensor) -> Tensor:
        branches = self.branches[: len(encoded) // len(known)]
        decoded = self.model.decode(self.model.decoder_inputs(encoded[: len(known)], known), predicted)
        return torch.cat([self.model.cross(decoded, predicted, keys) for keys in branches])


class Recorder(NoCache):
    """Keeps the conditioning vectors of every step, rows in (image, position) order."""

    def __init__(self) -> None:
        self.recorded: dict[int, Tensor] = {}

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        z = super().conditioning_vectors(state, step)
        rows = state.predicted(step).argsort(dim=1).repeat(2, 1)
        self.recorded[step.index] = z.gather(1, rows.unsqueeze(-1).expand_as(z)).flatten(0, 1)
        return z


def assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    error = float((actual - expected).norm() / expected.norm())
    assert error <= TOLERANCE, f"{what}: relative error {error:.2e}"


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


@pytest.mark.parametrize("path", sorted(FOLDER.glob("lightgen_*.safetensors")), ids=lambda path: path.stem)
@torch.inference_mode()
def test_recorded_decode(path: Path) -> None:
    with safe_open(path, "pt") as file:
        case = json.loads(file.metadata()["case"])
    tensors = load_file(path)
    model = LightGen(_architecture(case)).eval()
    prefix = "weights/"
    model.load_state_dict(
        {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    )
    guidance = {"linear": LinearGuidance, "constant": ConstantGuidance}[case["cfg_schedule"]]()
    sampler = _sampler(case["num_iter"], case["diffusion_steps"], guidance, case["cfg"], case["temperature"])
    plan = sampler.plan(model.config.grid)
    assert [step.num_tokens for step in plan.steps] == case["tokens_per_step"]
    adapter = Adapter(model, model.text_keys(model.embed_text(tensors["text_embeddings"])))
    batch, recorder = len(tensors["orders"]), Recorder()
    noise = SampleNoise(tensors["orders"].flip(1), tensors["noise"], torch.zeros(batch, plan.num_tokens))
    engine = Engine(adapter, plan, sampler.solver, recorder, sampler.selection)
    tokens = decode(engine, torch.zeros(batch, 1), noise)
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


@pytest.mark.parametrize("size", SIZES)
def test_published_layout(size: str) -> None:
    """Every key and shape of a published checkpoint is one of ours, and no other."""
    depths = dict.fromkeys(("encoder_depth", "decoder_depth", "cross_depth"), DEPTHS[size])
    with torch.device("meta"):
        model = LightGen(LightGenConfig(**SIZES[size], **depths))  # type: ignore[arg-type]
    published = json.loads((FOLDER / "manifests" / f"lightgen_fluid_{size}.json").read_text())
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == published


@torch.inference_mode()
def test_one_key_is_the_repeated_vector() -> None:
    config = LightGenConfig(grid=(4, 4), train_grid=(4, 4), embed_dim=24, num_heads=3, caption_channels=8)
    model = LightGen(config).eval()
    decoded, positions = torch.randn(2, 5, 24), torch.arange(5).expand(2, 5)
    repeated = model.text_keys(model.fake_latent.expand(2, 7, -1))
    expected = model.cross(decoded, positions, repeated)
    torch.testing.assert_close(model.cross(decoded, positions, model.unconditional_keys(2)), expected)


@pytest.mark.slow
@torch.no_grad()
def test_an_image_of_scenes_is_cheap() -> None:
    """At MAR's slow setting, 64 AR steps of 100 diffusion steps; tables of the model take hours then."""
    architecture = compose_settings("train", ["model=scenes", "dataset=scenes"]).model.architecture
    sampler = _sampler(64, 100, LinearGuidance(), 3.0)
    with torch.device("meta"):
        model = LightGen(instantiate(architecture)).eval().requires_grad_(False)
        plan, length = sampler.plan(model.config.grid), model.config.seq_len
        text = model.text_keys(model.embed_text(torch.empty(1, 24, model.config.caption_channels)))
        noise = SampleNoise(
            torch.empty(1, length, dtype=torch.int64),
            torch.empty(101, 1, length, model.config.token_dim),
            torch.empty(1, length),
        )
        engine = Engine(Adapter(model, text), plan, sampler.solver, NoCache(), sampler.selection)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            decode(engine, torch.empty(1, 1), noise)
    assert 0.08e12 < counter.get_total_flops() < 0.15e12
