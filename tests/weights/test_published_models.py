"""Published layouts of eMIGM, DeTok and DC-AE; DeTok's statistics; one vector under two names."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from mar_accel.config.compose import compose_settings
from mar_accel.errors import WeightsError
from mar_accel.inference.build import build_architecture
from mar_accel.models.detok import DeTok, DeTokAutoencoder, DeTokConfig, rotary_angles, rotate
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.sampler import Sampler
from mar_accel.weights.dc_autoencoder import dc_autoencoder
from mar_accel.weights.detok import read_statistics
from mar_accel.weights.fitting import guess_model
from mar_accel.weights.folder import save_model_folder
from mar_accel.weights.loading import load_mar

MANIFESTS = Path(__file__).parents[1] / "data" / "golden" / "manifests"
SIZES = ("xsmall", "small", "base", "large", "huge")
MODELS = {
    **{f"emigm_{size}_256": f"emigm_{size}" for size in SIZES},
    **{f"emigm_{size}_512": f"emigm_{size}_512" for size in SIZES[:4]},
    "detok_mar_base": "detok_base",
    "detok_mar_large": "detok_large",
}
# Millions, as published.
PARAMETERS = {
    **dict(zip((f"emigm_{size}" for size in SIZES), (69.0, 96.6, 207.9, 478.3, 942.4), strict=True)),
    **dict(zip((f"emigm_{size}_512" for size in SIZES[:4]), (104.5, 132.1, 244.2, 478.4), strict=True)),
    **{"detok_base": 207.9, "detok_large": 478.3},
}


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}


@pytest.mark.parametrize("manifest", MODELS)
def test_layout_is_that_of_the_preset(manifest: str) -> None:
    name = MODELS[manifest]
    architecture = build_architecture(compose_settings("generate", [f"model={name}"]).model)
    assert isinstance(architecture, MARConfig)
    with torch.device("meta"):
        model = MAR(architecture)
    published = _shapes(MANIFESTS / f"{manifest}.json")
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == published
    assert name in guess_model(published)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(PARAMETERS[name], abs=0.06)


# All of an autoencoder, and its decoder.
MILLIONS = {"dc_ae_f32c32_in": [323.4, 200.2], "detok_bb": [171.7, 85.9]}


def test_layout_of_autoencoders() -> None:
    with torch.device("meta"):
        networks: dict[str, Any] = {"dc_ae_f32c32_in": dc_autoencoder(), "detok_bb": DeTok(DeTokConfig())}
    for name, network in networks.items():
        layout = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        assert layout == _shapes(MANIFESTS / f"{name}.json"), name
        counts = [
            sum(tensor.numel() for tensor in part.state_dict().values())
            for part in (network, network.decoder)
        ]
        assert [count / 1e6 for count in counts] == pytest.approx(MILLIONS[name], abs=0.06)


@pytest.mark.parametrize(
    ("model", "sampler", "guided", "steps"),
    [
        ("emigm_base", "emigm", range(11, 14), 16),
        ("emigm_huge", "emigm", range(9, 12), 16),
        ("emigm_small_512", "emigm", range(10, 13), 16),
        ("emigm_large", "emigm_long", range(51, 104), 128),
        ("emigm_base", "emigm_long", range(76, 121), 128),
        ("emigm_huge", "emigm_long", range(38, 89), 128),
        ("emigm_large_512", "emigm_long", range(32, 48), 64),
    ],
)
def test_published_settings(model: str, sampler: str, guided: range, steps: int) -> None:
    from mar_accel.inference.build import build_sampler

    settings = compose_settings("generate", [f"model={model}", f"sampler={sampler}"])
    built: Sampler = build_sampler(settings)
    plan = built.plan((16, 16))
    assert len(plan.steps) == steps and plan.max_diffusion_steps == (8 if sampler == "emigm" else 14)
    assert [step.index for step in plan.steps if step.guided] == list(guided)
    assert {step.guidance_scale for step in plan.steps} == {1.0, 4.0}


@pytest.fixture
def shared() -> MAR:
    sizes = {"embed_dim": 16, "num_heads": 2, "encoder_depth": 1, "decoder_depth": 1, "head_depth": 1}
    return MAR(
        MARConfig(grid=(4, 4), num_classes=3, buffer_size=2, head_width=16, mask_guidance=True, **sizes)
    )


def test_mask_and_unconditional_branch_are_one_vector(shared: MAR, tmp_path: Path) -> None:
    state = {**shared.state_dict(), "mask_token": torch.full((1, 16), 7.0)}
    torch.save(state, tmp_path / "emigm.pth")
    loaded = load_mar(shared.config, str(tmp_path / "emigm.pth"), "emigm")
    assert loaded.mask_token is loaded.fake_latent and bool((loaded.fake_latent == 7).all())
    moved = loaded.double()
    assert moved.mask_token is moved.fake_latent
    folder = save_model_folder(tmp_path / "folder", loaded.float(), name="emigm", sampling={})
    again = load_mar(shared.config, str(folder), "emigm")
    assert bool((again.mask_token == 7).all()) and again.mask_token is again.fake_latent


def test_angles_and_rotation() -> None:
    """Two by two tokens, heads of width 4: one frequency, 7 cycles at the far end."""
    angles = rotary_angles((2, 2), 4)
    turn = 2 * torch.pi * 7
    assert torch.allclose(
        angles, torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1.0]]) * turn
    )
    quarter = torch.tensor([torch.pi / 2, 0.0, 0.0, torch.pi / 2])
    assert torch.allclose(
        rotate(torch.tensor([1.0, 2, 3, 4]), quarter), torch.tensor([-2.0, 2, 3, 3]), atol=1e-6
    )


def test_latents_are_normalised() -> None:
    sizes = {"encoder_width": 16, "encoder_depth": 1, "encoder_heads": 2}
    sizes |= {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    tokenizer = DeTok(DeTokConfig(grid=(2, 3), patch_size=4, token_channels=2, **sizes)).eval()
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])
    autoencoder, plain = (
        DeTokAutoencoder(tokenizer, mean, std),
        DeTokAutoencoder(tokenizer, mean * 0, std * 0 + 1),
    )
    image = torch.rand(2, 3, 8, 12)
    with torch.inference_mode():
        latents = autoencoder.encode(image)
        raw = plain.encode(image)
        torch.testing.assert_close(latents, (raw - mean.view(1, 2, 1, 1)) / std.view(1, 2, 1, 1))
        torch.testing.assert_close(autoencoder.decode(latents), plain.decode(raw))
    assert autoencoder.image_shape((2, 2, 3)) == (3, 8, 12)


NAME = "detok-BB-gamm3.0-m0.7"


def _statistics(path: Path, channels: int = 3) -> Path:
    both = torch.arange(2.0 * channels), torch.arange(1.0, 2 * channels + 1)
    path.write_bytes(
        pickle.dumps({NAME: {"single": (torch.tensor(0.1), torch.tensor(1.0)), "channel": both}})
    )
    return path


def test_statistics_take_the_means(tmp_path: Path) -> None:
    mean, std = read_statistics(_statistics(tmp_path / "stats.pkl"), NAME, 3)
    assert mean.tolist() == [0, 1, 2] and std.tolist() == [1, 2, 3]


class Code:
    """Asks for a file to be written when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_statistics_run_no_code(tmp_path: Path) -> None:
    (tmp_path / "stats.pkl").write_bytes(pickle.dumps({NAME: Code(tmp_path / "written")}))
    with pytest.raises(WeightsError, match=r"asks for code to be run .*open.*refused"):
        read_statistics(tmp_path / "stats.pkl", NAME, 3)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"not a pickle", "damaged"),
        (pickle.dumps({"other": 1}), f"has no statistics named {NAME}, but other"),
        (pickle.dumps([1]), f"has no statistics named {NAME}, but list"),
        (pickle.dumps({NAME: {"single": (0.0, 1.0)}}), "no channel statistics"),
        (pickle.dumps({NAME: {"channel": ([0.0] * 2, [1.0] * 2)}}), "must have 3 finite means"),
        (pickle.dumps({NAME: {"channel": ([0.0] * 3, [1.0, 0.0, 1.0])}}), "must have 3 finite means"),
    ],
)
def test_wrong_statistics(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "stats.pkl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_statistics(path, NAME, 3)
