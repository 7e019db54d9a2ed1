"""Agreement with the recorded outputs of the published implementations, one test per recorded file.

The files are those of tests/data/golden, or of the folder that MAR_ACCEL_GOLDEN names.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mar_accel.caching.condition import ConditionCache
from mar_accel.caching.head import HeadCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.refresh import FixedRefresh
from mar_accel.caching.token import TokenCache
from mar_accel.models.autoencoders import KLAutoencoder
from mar_accel.models.diffusion_head import DiffusionHead
from mar_accel.models.kl16 import SCALING_FACTOR, diffusers_names, kl16_autoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.denoiser import GuidedDenoiser, embed_timesteps
from mar_accel.sampling.diffusion_schedule import diffusion_schedule
from mar_accel.sampling.diffusion_steps import (
    AnnealedDiffusionSteps,
    ConstantDiffusionSteps,
    DiffusionSteps,
    StageAwareDiffusionSteps,
)
from mar_accel.sampling.guidance import ConstantGuidance, Guidance, LinearGuidance
from mar_accel.sampling.noise import SampleNoise
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.orders import BisectionOrder, HaltonOrder, RandomOrder
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import CachePolicy, NoCache
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.selection import NoSelection, frequency_scores
from mar_accel.sampling.solvers import DDPM
from mar_accel.sampling.state import DecodeState
from mar_accel.sampling.step_sizes import CosineSteps, StageSteps

TOLERANCE = 1e-4
DISA_CLIP = 950
FOLDER = Path(os.environ.get("MAR_ACCEL_GOLDEN", Path(__file__).parents[1] / "data" / "golden"))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return json.loads(metadata.get("case", "{}")), load_file(path)


def _assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    error = float((actual - expected).norm() / expected.norm())
    assert error <= TOLERANCE, f"{what}: relative error {error:.2e}"


def _weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")
    }


def _model(case: dict[str, Any], tensors: dict[str, Tensor]) -> MAR:
    config = MARConfig(
        grid=tuple(case["grid"]),
        patch_size=case["patch_size"],
        latent_channels=case["vae_embed_dim"],
        num_classes=case["num_classes"],
        buffer_size=case["buffer_size"],
        embed_dim=case["embed_dim"],
        num_heads=case["num_heads"],
        encoder_depth=case["encoder_depth"],
        decoder_depth=case["decoder_depth"],
        head_depth=case["head_depth"],
        head_width=case["head_width"],
    )
    model = MAR(config).eval()
    model.load_state_dict(_weights(tensors))
    return model


class Recorder(Observer):
    """Keeps the conditioning vectors of some steps, in grid order."""

    def __init__(self, steps: Sequence[int]):
        self.steps, self.recorded = set(steps), dict[int, Tensor]()

    def conditioning(self, state: DecodeState, step: ARStep, z: Tensor) -> None:
        if step.index in self.steps:
            positions = state.predicted(step)
            rows = positions.argsort(dim=1).repeat(z.shape[0] // positions.shape[0], 1)
            ordered = z.gather(1, rows.unsqueeze(-1).expand_as(z))
            self.recorded[step.index] = ordered.flatten(0, 1).clone()


def _check_decode(
    case: dict[str, Any],
    tensors: dict[str, Tensor],
    diffusion_steps: DiffusionSteps,
    max_timestep: int | None,
    cache: CachePolicy,
) -> None:
    model = _model(case, tensors)
    guidance = {"linear": LinearGuidance, "constant": ConstantGuidance}[case["cfg_schedule"]]()
    sampler = Sampler(
        order=RandomOrder(),
        step_sizes=CosineSteps(case["num_iter"]),
        guidance_schedule=guidance,
        diffusion_steps=diffusion_steps,
        solver=DDPM(),
        selection=NoSelection(),
        guidance_scale=case["cfg"],
        temperature=case["temperature"],
        max_timestep=max_timestep,
    )
    plan = sampler.plan(model.config.grid)
    assert [step.num_tokens for step in plan.steps] == case["tokens_per_step"]
    cache.check(model.config, plan, sampler.solver)
    recorder = Recorder(case["z_steps"])
    batch = len(tensors["orders"])
    if case["conditional"]:
        embedding = model.class_embedding(tensors["labels"])
    else:
        embedding = model.unconditional_embedding(batch)
    # The recordings decode from the end of their order.
    noise = SampleNoise(tensors["orders"].flip(1), tensors["noise"], torch.zeros(batch, plan.num_tokens))
    engine = Engine(model, plan, sampler.solver, cache, sampler.selection)
    tokens = decode(engine, embedding, noise, recorder)
    assert recorder.recorded.keys() == set(case["z_steps"])
    for step, z in recorder.recorded.items():
        _assert_close(z, tensors[f"z_step{step}"], f"z of step {step}")
    _assert_close(tokens, tensors["tokens"], "tokens")
    _assert_close(model.unpatchify(tokens), tensors["latents"], "latents")


def check_mar(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    _check_decode(case, tensors, ConstantDiffusionSteps(case["diffusion_steps"]), None, NoCache())


def check_lazymar(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """The published constants; its table of ratios is indexed by the AR step whatever their number."""
    cache = LazyMAR(
        FixedRefresh(warmup_steps=5, period=9, max_new_share=None),
        TokenCache(prune_block=3, ratio_by="step"),
        ConditionCache(),
        HeadCache(period=7, period_for=None, refresh_below=0.0),
    )
    _check_decode(case, tensors, ConstantDiffusionSteps(case["diffusion_steps"]), None, cache)


def check_disa(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    diffusion_steps = AnnealedDiffusionSteps(case["upper_steps"], case["lower_steps"], case["strategy"])
    lengths = diffusion_steps.per_step(CosineSteps(case["num_iter"]).split([math.prod(case["grid"])]))
    assert _chain_lengths(lengths) == case["diffusion_steps_per_iter"]
    _check_decode(case, tensors, diffusion_steps, DISA_CLIP, NoCache())


def _chain_lengths(nominal: Sequence[int]) -> list[int]:
    """Lengths of chains of T steps after DiSA's clip, which merges timesteps. The cases record these."""
    return [diffusion_schedule(num_steps, DISA_CLIP).num_steps for num_steps in nominal]


def test_the_clip_shortens_long_chains() -> None:
    assert _chain_lengths([50, 14, 5]) == [48, 14, 5]


def check_fts(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Vectors z<D> [n, D] and their scores score<D> [n], to 1e-5."""
    widths = [key.removeprefix("z") for key in tensors if key.startswith("z")]
    assert widths
    for width in widths:
        expected = tensors[f"score{width}"].float()
        torch.testing.assert_close(frequency_scores(tensors[f"z{width}"]), expected, rtol=1e-5, atol=0)


def check_head(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    head = DiffusionHead(case["token_dim"], case["z_dim"], case["head_width"], case["head_depth"]).eval()
    head.load_state_dict(_weights(tensors))
    schedule = diffusion_schedule(case["diffusion_steps"])
    guidance = Guidance(case["cfg"])
    guided = [guidance.guided] * schedule.num_steps
    with torch.inference_mode():
        embeddings = embed_timesteps(head.net, schedule.timesteps, torch.device("cpu"))
        denoise = GuidedDenoiser(head.net, tensors["z"], embeddings, guidance, guided)
        tokens = DDPM().sample(denoise, tensors["noise"], schedule, case["temperature"])
    _assert_close(tokens, tensors["tokens"], "tokens")


def check_loss(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    model = _model(case, tensors)
    mask = tensors["mask"]
    order = mask.argsort(dim=1, descending=True, stable=True)
    loss = model.training_loss(
        tensors["latents"],
        model.class_embedding(tensors["labels"]),
        order,
        int(mask[0].sum()),
        tensors["timesteps"],
        tensors["noise"],
    )
    _assert_close(loss.detach(), tensors["loss"], "loss")


def check_kl16_vae(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    weights = {key: _synthesise(key, shape) for key, shape in case["shapes"].items()}
    with torch.device("meta"):
        vae = kl16_autoencoder()
    vae.to_empty(device="cpu").load_state_dict(diffusers_names(weights))
    autoencoder = KLAutoencoder(vae).eval()
    with torch.inference_mode():
        # The recording has latents before MAR's scale, and images in -1..1.
        mean = autoencoder.encode((tensors["image"] + 1) / 2) / SCALING_FACTOR
        image = autoencoder.decode(tensors["latents"] * SCALING_FACTOR) * 2 - 1
    _assert_close(mean, tensors["encoded_mean"], "mean of the posterior")
    _assert_close(image, tensors["decoded"], "image")


def _synthesise(key: str, shape: Sequence[int]) -> Tensor:
    """One weight by the rule that the recording states."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if len(shape) > 1:
        return x / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * x if "norm" in key and key.endswith("weight") else 0.1 * x


CHECKS = {
    "mar": check_mar,
    "lazymar": check_lazymar,
    "disa": check_disa,
    "head": check_head,
    "loss": check_loss,
    "fts": check_fts,
    "kl16_vae": check_kl16_vae,
}


# Those of text models are in test_lightgen.py.
PATHS = sorted(path for path in FOLDER.glob("*.safetensors") if not path.stem.startswith("lightgen_"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_recorded_case(path: Path) -> None:
    case, tensors = _read(path)
    kind = case.get("kind", path.stem)
    if kind not in CHECKS:
        pytest.skip(f"kind {kind!r} is not implemented")
    CHECKS[kind](case, tensors)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("orders.json")), ids=lambda path: path.stem)
def test_recorded_orders(path: Path) -> None:
    """Halton orders; stages as sets, AR steps per stage and diffusion steps of GtR."""
    recorded, generator = json.loads(path.read_text()), torch.Generator()
    for side, positions in recorded["halton"].items():
        assert HaltonOrder().permutation((int(side), int(side)), generator).tolist() == positions
    for name, case in recorded["gtr"].items():
        order, grid = BisectionOrder(len(case["stages"])), tuple(case["grid"])
        assert [set(stage.tolist()) for stage in order.stages(grid)] == [set(s) for s in case["stages"]], name
        steps = StageSteps(case["rates"]).split(order.stage_sizes(grid))
        per_stage = [sum(step.stage == stage for step in steps) for stage in range(len(case["stages"]))]
        assert per_stage == case["steps"], name
        assert StageAwareDiffusionSteps(50, 20, 20).per_step(steps) == case["diffusion_steps"], name


@pytest.mark.parametrize(
    "path", sorted((FOLDER / "manifests").glob("mar_*.json")), ids=lambda path: path.stem
)
def test_published_layout(path: Path) -> None:
    """Every key and shape of a published checkpoint is one of ours, and no other."""
    sizes = {
        "mar_base": MARConfig(),
        "mar_large": MARConfig(
            embed_dim=1024, num_heads=16, encoder_depth=16, decoder_depth=16, head_depth=8, head_width=1280
        ),
        "mar_huge": MARConfig(
            embed_dim=1280, num_heads=16, encoder_depth=20, decoder_depth=20, head_depth=12, head_width=1536
        ),
    }
    if path.stem not in sizes:
        pytest.skip(f"no architecture named {path.stem!r}")
    with torch.device("meta"):
        model = MAR(sizes[path.stem])
    published = {key: list(shape) for key, shape in json.loads(path.read_text()).items()}
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == published
