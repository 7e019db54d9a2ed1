"""Agreement with the recorded outputs of the published implementations, one test per recorded file.

The files are those of tests/data/golden, or of the folder that MAR_ACCEL_GOLDEN names.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mar_accel.caching.condition import ConditionCache
from mar_accel.caching.head import HeadCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.refresh import FixedRefresh
from mar_accel.caching.token import TokenCache
from mar_accel.config.compose import compose_settings
from mar_accel.config.hydra_context import conf_dir
from mar_accel.inference.build import build_architecture
from mar_accel.models.autoencoders import KLAutoencoder
from mar_accel.models.detok import DeTok, DeTokAutoencoder, DeTokConfig
from mar_accel.models.diffusion_head import DiffusionHead
from mar_accel.models.families import make_network
from mar_accel.models.kl16 import SCALING_FACTOR, diffusers_names, kl16_autoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.denoiser import GuidedDenoiser, embed_timesteps
from mar_accel.sampling.diffusion_schedule import ChainSchedule, diffusion_schedule
from mar_accel.sampling.diffusion_steps import (
    AnnealedDiffusionSteps,
    ConstantDiffusionSteps,
    DiffusionSteps,
    StageAwareDiffusionSteps,
)
from mar_accel.sampling.guidance import (
    ConstantGuidance,
    Guidance,
    GuidanceSchedule,
    IntervalGuidance,
    LinearGuidance,
    Progress,
)
from mar_accel.sampling.log_snr_schedule import log_snr_schedule
from mar_accel.sampling.noise import SampleNoise
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.orders import BisectionOrder, HaltonOrder, RandomOrder
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.policy import CachePolicy, NoCache
from mar_accel.sampling.rate_steps import FUNCTIONS, RateSteps, ar_time, decode_probabilities
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.selection import NoSelection, frequency_scores
from mar_accel.sampling.singlestep import DPMSolverSinglestep
from mar_accel.sampling.solvers import DDPM, Solver
from mar_accel.sampling.state import DecodeState
from mar_accel.sampling.step_sizes import CosineSteps, StageSteps, StepSize, StepSizes
from mar_accel.weights.dc_autoencoder import dc_autoencoder

from .cases import FOLDER, assert_close, manifests, paths_of, read, shapes, weights_of

DISA_CLIP = 950


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
        mask_guidance=case["kind"] == "emigm",
    )
    model = MAR(config).eval()
    model.load_state_dict(weights_of(tensors))
    return model


class Recorder(Observer):
    """Keeps the conditioning vectors of some steps, in grid order, under the numbers of the recording."""

    def __init__(self, names: Mapping[int, int]):
        self.names, self.recorded = names, dict[int, Tensor]()

    def conditioning(self, state: DecodeState, step: ARStep, z: Tensor) -> None:
        if step.index in self.names:
            positions = state.predicted(step)
            rows = positions.argsort(dim=1).repeat(z.shape[0] // positions.shape[0], 1)
            ordered = z.gather(1, rows.unsqueeze(-1).expand_as(z))
            self.recorded[self.names[step.index]] = ordered.flatten(0, 1).clone()


def _check_decode(
    case: dict[str, Any],
    tensors: dict[str, Tensor],
    diffusion_steps: DiffusionSteps,
    max_timestep: int | None,
    cache: CachePolicy,
    **parts: Any,
) -> Plan:
    """Decode as a case says, with further parts of the sampler; returns the plan."""
    model = _model(case, tensors)
    guidance = {"linear": LinearGuidance, "constant": ConstantGuidance}[case["cfg_schedule"]]()
    usual = {"step_sizes": _step_sizes(case), "guidance_schedule": guidance, "solver": DDPM()}
    sampler = Sampler(
        order=RandomOrder(),
        diffusion_steps=diffusion_steps,
        selection=NoSelection(),
        guidance_scale=case["cfg"],
        temperature=case["temperature"],
        max_timestep=max_timestep,
        **usual | parts,
    )
    plan = sampler.plan(model.config.grid)
    # The published schedule may have steps without tokens, which do nothing. A plan has none of them.
    numbers = [number for number, size in enumerate(case["tokens_per_step"]) if size]
    assert [step.num_tokens for step in plan.steps] == [case["tokens_per_step"][n] for n in numbers]
    cache.check(model.config, plan, sampler.solver)
    recorder = Recorder({numbers.index(number): number for number in case["z_steps"] if number in numbers})
    batch = len(tensors["orders"])
    condition = model.condition(tensors["labels"]) if case["conditional"] else model.unconditional(batch)
    # The recordings decode from the end of their order.
    noise = SampleNoise(tensors["orders"].flip(1), tensors["noise"], torch.zeros(batch, plan.num_tokens))
    engine = Engine(model, plan, sampler.solver, cache, sampler.selection)
    tokens = decode(engine, condition, noise, recorder)
    assert recorder.recorded.keys() == set(case["z_steps"]) & set(numbers)
    for step, z in recorder.recorded.items():
        assert_close(z, tensors[f"z_step{step}"], f"z of step {step}")
    assert_close(tokens, tensors["tokens"], "tokens")
    assert_close(model.unpatchify(tokens), tensors["latents"], "latents")
    return plan


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


class RecordedSteps(RateSteps):
    """The step sizes that a recording has drawn, which may be fewer than its number of AR steps."""

    def __init__(self, num_iter: int, recorded: Sequence[int]):
        super().__init__(num_iter)
        self.recorded = [size for size in recorded if size]

    def sizes(self, stage_sizes: Sequence[int]) -> list[int]:
        return self.recorded


class CosineStepsWithPauses(StepSizes):
    """MAR's schedule with more AR steps than tokens: steps without tokens are left out."""

    def __init__(self, recorded: Sequence[int]):
        self.recorded = [size for size in recorded if size]

    def split(self, stage_sizes: Sequence[int]) -> list[StepSize]:
        length, decoded = sum(stage_sizes), list(itertools.accumulate(self.recorded))
        # As in CosineSteps, one token counts as masked until the end.
        shares = [min(count, length - 1) / length for count in decoded]
        return [StepSize(size, 0, share) for size, share in zip(self.recorded, shares, strict=True)]


def _step_sizes(case: dict[str, Any]) -> StepSizes:
    if 0 in case["tokens_per_step"]:
        return CosineStepsWithPauses(case["tokens_per_step"])
    return CosineSteps(case["num_iter"])


def _interval(case: dict[str, Any]) -> GuidanceSchedule:
    """eMIGM's guidance interval; one that no AR time is in guides no step."""
    low, high = max(0.0, case["guidance_interval"][0]), min(1.0, case["guidance_interval"][1])
    if low < high:
        return IntervalGuidance("ar_time", low, high, case["cfg_schedule"])
    return ScheduleWithoutGuidance()


class ScheduleWithoutGuidance(GuidanceSchedule):
    def scale(self, guidance_scale: float, progress: Progress) -> float:
        return 1.0


def check_emigm(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Also which steps are guided, and how often a token's head runs (two branches count once)."""
    solver = {"dpm-solver": DPMSolverSinglestep, "ddpm": DDPM}[case["solver"]]()
    plan = _check_decode(
        case,
        tensors,
        ConstantDiffusionSteps(case["diffusion_steps"]),
        None,
        NoCache(),
        step_sizes=RecordedSteps(case["num_iter"], case["tokens_per_step"]),
        guidance_schedule=_interval(case),
        solver=solver,
    )
    ran = [number for number, size in enumerate(case["tokens_per_step"]) if size]
    assert [step.guided for step in plan.steps] == [case["guided"][number] for number in ran]
    scales = [step.guidance_scale for step in plan.steps]
    assert scales == pytest.approx([case["guidance_per_step"][number] for number in ran])
    evaluations = [plan.schedules[step.num_diffusion_steps].num_steps for step in plan.steps]
    assert sum(evaluations) == case["head_evaluations"]


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
    _check_chain(case, tensors, diffusion_schedule(case["diffusion_steps"]), DDPM())


def _check_chain(
    case: dict[str, Any], tensors: dict[str, Tensor], schedule: ChainSchedule, solver: Solver
) -> None:
    head = DiffusionHead(case["token_dim"], case["z_dim"], case["head_width"], case["head_depth"]).eval()
    head.load_state_dict(weights_of(tensors))
    guidance = Guidance(case["cfg"])
    guided = [guidance.guided] * schedule.num_steps
    with torch.inference_mode():
        embeddings = embed_timesteps(head.net, schedule.timesteps, torch.device("cpu"))
        denoise = GuidedDenoiser(head.net, tensors["z"], embeddings, guidance, guided)
        tokens = solver.sample(denoise, tensors["noise"], schedule, case["temperature"])
    assert_close(tokens, tensors["tokens"], "tokens")


def check_head_dpm_solver(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """The chain of eMIGM's solver; also the timesteps at which it evaluates the head."""
    schedule = log_snr_schedule(case["diffusion_steps"])
    assert schedule.timesteps[::-1] == pytest.approx(case["timesteps"], abs=5e-3)
    assert len(tensors["noise"]) == schedule.num_draws
    _check_chain(case, tensors, schedule, DPMSolverSinglestep())


def check_loss(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    model = _model(case, tensors)
    mask = tensors["mask"]
    order = mask.argsort(dim=1, descending=True, stable=True)
    loss = model.training_loss(
        tensors["latents"],
        model.condition(tensors["labels"]),
        order,
        int(mask[0].sum()),
        tensors["timesteps"],
        tensors["noise"],
    )
    assert_close(loss.detach().flatten(), tensors["loss"].flatten(), "loss")


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
    assert_close(mean, tensors["encoded_mean"], "mean of the posterior")
    assert_close(image, tensors["decoded"], "image")


def check_detok(case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    sizes = {field.name: case[field.name] for field in fields(DeTokConfig)}
    tokenizer = DeTok(DeTokConfig(**sizes | {"grid": tuple(case["grid"])}))
    tokenizer.load_state_dict(weights_of(tensors))
    autoencoder = DeTokAutoencoder(tokenizer, tensors["mean"], tensors["std"]).eval()
    with torch.inference_mode():
        image = autoencoder.decode(tensors["latents"])
        encoded = autoencoder.encode((tensors["input"] + 1) / 2)
    assert_close(image * 2 - 1, tensors["decoded"], "decoded image")
    assert_close(image.clamp(0, 1), tensors["image"], "image")
    assert_close(encoded, tensors["encoded"], "latents")


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
    "detok": check_detok,
    "emigm": check_emigm,
    "head": check_head,
    "head_dpm_solver": check_head_dpm_solver,
    "loss": check_loss,
    "fts": check_fts,
    "kl16_vae": check_kl16_vae,
}


# Those of text models are in test_lightgen.py.
@pytest.mark.parametrize("path", paths_of(text_models=False), ids=lambda path: path.stem)
def test_recorded_case(path: Path) -> None:
    case, tensors = read(path)
    if case["kind"] not in CHECKS:
        pytest.skip(f"kind {case['kind']!r} is not implemented")
    CHECKS[case["kind"]](case, tensors)


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


@pytest.mark.parametrize("path", sorted(FOLDER.glob("emigm_schedules.json")), ids=lambda path: path.stem)
def test_recorded_emigm_schedules(path: Path) -> None:
    """Step sizes, guided steps of the published settings, and the solver's steps."""
    recorded = json.loads(path.read_text())
    for num_iter, case in recorded["exp_schedule"].items():
        count, length = int(num_iter), case["L"]
        assert [ar_time(step + 1, count) for step in range(count)] == pytest.approx(case["s"], abs=1e-6)
        assert decode_probabilities(count, FUNCTIONS["exp"]) == pytest.approx(case["p"], rel=2e-4, abs=3e-7)
        assert RateSteps(count).sizes([length]) == case["tokens"]
    for name, case in recorded["guided"].items():
        start, end = case["interval"]
        schedule = IntervalGuidance("ar_time", start, end, "constant")
        plan = Sampler(
            step_sizes=RateSteps(case["num_iter"]), guidance_schedule=schedule, guidance_scale=4.0
        ).plan((16, 16))
        assert [step.index for step in plan.steps if step.guided] == case["guided_steps"], name
    for num_steps, case in recorded["dpm_solver_singlestep"].items():
        chain = log_snr_schedule(int(num_steps))
        assert [block.order for block in chain.blocks] == case["orders"]
        edges = [block.nodes[0].log_snr for block in chain.blocks] + [chain.blocks[-1].nodes[-1].log_snr]
        assert edges == pytest.approx(case["outer_lambdas"], abs=1e-4)
        assert chain.timesteps[::-1] == pytest.approx(case["timesteps"], abs=5e-3)


def _network(name: str) -> nn.Module | None:
    """The network of a manifest, without storage; None if there is none of this name."""
    emigm = re.fullmatch(r"emigm_(\w+)_(256|512)", name)
    preset = name.replace("detok_mar_", "detok_")
    if emigm is not None:
        preset = f"emigm_{emigm[1]}" + ("" if emigm[2] == "256" else "_512")
    with torch.device("meta"):
        if name == "detok_bb":
            return DeTok(DeTokConfig())
        if name == "dc_ae_f32c32_in":
            return dc_autoencoder()
        if preset not in PRESETS:
            return None
        return make_network(build_architecture(compose_settings("generate", [f"model={preset}"]).model))


PRESETS = [file.stem for file in (conf_dir() / "model").glob("*.yaml")]
# Those of LightGen are in test_lightgen.py.
LAYOUTS = [path for path in manifests() if not path.stem.startswith("lightgen")]


@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_published_layout(path: Path) -> None:
    """Every key and shape of a published checkpoint is one of ours, and no other."""
    network = _network(path.stem)
    if network is None:
        pytest.skip(f"no architecture named {path.stem!r}")
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == shapes(path)
