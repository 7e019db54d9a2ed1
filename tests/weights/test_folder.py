"""Model folders: written whole, read back, refused where they are of another model."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL
from safetensors.torch import load_file, save_file

from mar_accel.errors import WeightsError
from mar_accel.models.autoencoders import Autoencoder, DCAutoencoder, KLAutoencoder, PixelAutoencoder
from mar_accel.models.detok import DeTok, DeTokAutoencoder, DeTokConfig
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.pipeline import MARPipeline
from mar_accel.weights.autoencoders import load_autoencoder
from mar_accel.weights.detok import load_detok
from mar_accel.weights.folder import read_description, save_model_folder
from mar_accel.weights.loading import load_kl_autoencoder, load_mar

from ..tiny import tiny_config

SAMPLING = {"guidance_scale": 2.5}
TINY = tiny_config(num_classes=3)
SIZES = {"width": 16, "depth": 1, "heads": 2}


def _save(path: Path, model: MAR, autoencoder: Autoencoder | None = None, **settings: Any) -> Path:
    return save_model_folder(path, model, autoencoder, name="tiny", **{"sampling": SAMPLING, **settings})


def test_round_trip(tmp_path: Path, tiny_model: MAR, tiny_config: MARConfig) -> None:
    folder = _save(tmp_path / "new" / "tiny", tiny_model, PixelAutoencoder())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    described = read_description(folder, "model.weights")
    assert (described.name, described.sampling, described.autoencoder) == ("tiny", SAMPLING, "pixel")
    assert described.architecture == tiny_config
    loaded = load_mar(tiny_config, str(folder), "tiny")
    torch.testing.assert_close(loaded.state_dict(), tiny_model.state_dict(), rtol=0, atol=0)
    assert not loaded.training
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1, "others may read the weights as they may the config"


def test_what_a_model_is_sampled_with_is_kept(tmp_path: Path, tiny_model: MAR) -> None:
    sampling = {"max_timestep": 950, "head_refresh_below": 0.1, "of_my_own": [1, None]}
    described = read_description(_save(tmp_path, tiny_model, sampling=sampling), "key")
    assert described.sampling == sampling


def test_vae_round_trip(tmp_path: Path, tiny_model: MAR) -> None:
    vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4, scaling_factor=0.25)
    folder = _save(tmp_path / "tiny", tiny_model, KLAutoencoder(vae))
    latents = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        expected = (vae.eval().decode(latents / 0.25).sample + 1) / 2
        for path in (folder, folder / "vae"):
            assert torch.equal(load_kl_autoencoder(str(path)).decode(latents), expected)
    assert AutoencoderKL.from_pretrained(folder / "vae").config.scaling_factor == 0.25


DETOK = DeTokConfig(
    **{"grid": (4, 4), "patch_size": 2, "token_channels": 4},
    **{f"{part}_{size}": value for part in ("encoder", "decoder") for size, value in SIZES.items()},
)


def _detok() -> DeTokAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, std = torch.randn(4), torch.rand(4) + 0.5
        return DeTokAutoencoder(DeTok(DETOK), mean, std).eval()


def _dc() -> DCAutoencoder:
    sides = {
        **{"block_types": ("ResBlock", "ResBlock"), "block_out_channels": (8, 16)},
        "qkv_multiscales": ((), ()),
    }
    settings: Any = {
        f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in sides.items()
    }
    layers = {"encoder_layers_per_block": (0, 1), "decoder_layers_per_block": (1, 1)}
    return DCAutoencoder(
        AutoencoderDC(latent_channels=4, scaling_factor=0.4, **layers, **settings).eval()
    ).eval()


@pytest.mark.parametrize(("make", "kind"), [(_detok, "detok"), (_dc, "dc")])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_autoencoder_round_trip(
    make: Callable[[], Autoencoder], kind: str, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    """The folder is all that decoding needs; images are equal to the last bit, or nearly so with 16 bits."""
    autoencoder = make()
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    model = load_mar(replace(TINY, latent_channels=4), "random", "tiny")
    folder = _save(tmp_path / "tiny", model, autoencoder, dtype=dtype)
    assert read_description(folder, "key").autoencoder == kind
    with torch.inference_mode():
        expected = autoencoder.decode(latents)
        for path in (folder, folder / "vae"):
            again = load_autoencoder(kind, str(path))
            assert again.latent_channels == 4 and not again.training  # type: ignore[attr-defined]
            assert torch.equal(again.decode(latents), expected) == (dtype is None)
            assert (again.decode(latents) - expected).norm() < 0.1 * expected.norm()
            shown = again.encode(torch.rand(1, 3, *expected.shape[-2:]))
            assert shown.shape == (1, 4, 4, 4)


def test_saved_pipeline_makes_the_same_images(tmp_path: Path) -> None:
    model = load_mar(replace(TINY, latent_channels=4), "random", "tiny")
    for make in (_detok, _dc):
        pipe = MARPipeline(model, make(), name="tiny")
        again = MARPipeline.from_pretrained(pipe.save_pretrained(tmp_path / make.__name__))
        first, second = (
            p([1], num_iter=2, num_diffusion_steps=2, output_type="np").images for p in (pipe, again)
        )
        assert np.array_equal(first, second)


def test_saved_tokenizer_of_another_grid(tmp_path: Path) -> None:
    model = load_mar(replace(TINY, latent_channels=4, grid=(2, 2)), "random", "tiny")
    folder = _save(tmp_path, model, _detok())
    with pytest.raises(WeightsError, match=r"decodes 4×4 latents but the model has 2×2"):
        MARPipeline.from_pretrained(folder)


def test_saved_statistics_and_others(tmp_path: Path) -> None:
    folder = _save(tmp_path / "tiny", load_mar(replace(TINY, latent_channels=4), "random", "tiny"), _detok())
    both = torch.full((8,), 5.0), torch.full((8,), 2.0)
    (tmp_path / "stats.pkl").write_bytes(pickle.dumps({"mine": {"channel": both}}))
    other = load_detok(str(folder), str(tmp_path / "stats.pkl"), "mine")
    assert other.mean.flatten().tolist() == [5.0] * 4 and other.std.flatten().tolist() == [2.0] * 4
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for broken in ({"std": torch.zeros(4)}, {"mean": torch.zeros(2)}, {"mean": torch.full((4,), torch.nan)}):
        save_file({**tensors, **broken}, file)
        with pytest.raises(WeightsError, match=r"must have 4 finite means and deviations > 0"):
            load_detok(str(folder))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"grid": [4]}, "tokenizer.grid must be two sizes"),
        ({"encoder_depth": 10**9}, "tokenizer.encoder_depth must be an integer between"),
        ({"decoder_width": 20}, r"tokenizer.decoder_width must be a multiple of 4·decoder_heads=8, got 20"),
        ({"patch_size": "2"}, "tokenizer.patch_size must be an integer"),
        ({"surprise": 1}, "does not describe a tokenizer of DeTok"),
        ({"decoder_width": 32}, r"does not fit its config\.json"),
    ],
)
def test_tokenizer_with_an_impossible_config(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = _save(tmp_path, load_mar(replace(TINY, latent_channels=4), "random", "tiny"), _detok())
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))
    with pytest.raises(WeightsError, match=words):
        load_detok(str(folder))


@pytest.mark.parametrize("kind", ["kl", "dc", "detok"])
def test_folder_with_another_autoencoder(kind: str, tmp_path: Path) -> None:
    """Each kind refuses the folders of the two others in one sentence."""
    made: dict[str, Autoencoder] = {"dc": _dc(), "detok": _detok()}
    made["kl"] = KLAutoencoder(AutoencoderKL(block_out_channels=(32,), latent_channels=4))
    model = load_mar(replace(TINY, latent_channels=4), "random", "tiny")
    for other in made.keys() - {kind}:
        folder = _save(tmp_path / other, model, made[other])
        with pytest.raises(WeightsError, match=r"model\.autoencoder\.weights=\S+ has (no vae|none of)"):
            load_autoencoder(kind, str(folder))


def test_rewriting_replaces_only_its_own_files(
    tmp_path: Path, tiny_model: MAR, tiny_config: MARConfig
) -> None:
    folder = _save(tmp_path, tiny_model)
    (folder / "README.md").write_text("card")
    with torch.no_grad():
        tiny_model.mask_token.fill_(7)
    _save(folder, tiny_model, dtype=torch.bfloat16)
    assert (folder / "README.md").read_text() == "card"
    assert bool((load_mar(tiny_config, str(folder), "tiny").mask_token == 7).all())
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_failed_write_leaves_nothing(tmp_path: Path, tiny_model: MAR) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match="cannot be written"):
        _save(tmp_path / "file", tiny_model)
    with pytest.raises(WeightsError, match="cannot be written"):
        _save(tmp_path / "file" / "below", tiny_model)
    with pytest.raises(WeightsError, match="to be saved, got a Autoencoder"):
        _save(tmp_path / "other", tiny_model, Autoencoder())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folder_may_be_a_mount_point(
    tmp_path: Path, tiny_model: MAR, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only files below the folder are on its file system."""
    folder, replace_file = tmp_path / "mount", os.replace

    def same_file_system(source: Path, target: Path) -> None:
        assert source.is_relative_to(folder) and target.is_relative_to(folder)
        replace_file(source, target)

    monkeypatch.setattr("mar_accel.weights.folder.os.replace", same_file_system)
    assert sorted(path.name for path in _save(folder, tiny_model).iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_folder_of_another_architecture(tmp_path: Path, tiny_model: MAR, tiny_config: MARConfig) -> None:
    """Also where no shape shows it, as with the number of heads."""
    folder = _save(tmp_path, tiny_model)
    with pytest.raises(
        WeightsError,
        match=r"holds tiny, which does not fit model=other: num_heads is 2, not 4; use model=tiny",
    ):
        load_mar(replace(tiny_config, num_heads=4), str(folder), "other")
    load_mar(replace(tiny_config, dropout=0.1), str(folder), "other")


def test_broken_folders(tmp_path: Path, tiny_model: MAR, tiny_config: MARConfig) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"empty has no config\.json"):
        load_mar(tiny_config, str(tmp_path / "empty"), "tiny")
    folder = _save(tmp_path / "tiny", tiny_model)
    with pytest.raises(WeightsError, match=r"model\.autoencoder\.weights=\S+ has no vae"):
        load_kl_autoencoder(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        load_mar(tiny_config, str(folder), "tiny")
    config = folder / "config.json"
    record = json.loads(config.read_text())
    for text in (
        "{",
        "[]",
        "{}",
        "[" * 10**5,
        "\0",
        '"' + "x" * 10**6 + '"',
        json.dumps({**record, "autoencoder": "os.system"}),
    ):
        config.write_text(text)
        with pytest.raises(WeightsError, match=r"config\.json does not describe a MAR model"):
            load_mar(tiny_config, str(folder), "tiny")


BAD_SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "no heads": ({"num_heads": 0}, "num_heads must be an integer between 1 and"),
    "text": ({"embed_dim": "16"}, "embed_dim must be an integer between 1 and 1000000, got '16'"),
    "one size of the grid": ({"grid": [16]}, "grid must be two sizes"),
    "no patch": ({"patch_size": 0}, "patch_size must be an integer between 1 and"),
    "negative depth": ({"encoder_depth": -1}, "encoder_depth must be an integer between 0 and 1000, got -1"),
    "depth without end": ({"decoder_depth": 10**7}, "decoder_depth must be an integer between 1 and 1000"),
    "true": ({"head_width": True}, "head_width must be an integer between 1 and 1000000, got True"),
    "grid of text": ({"grid": "ab"}, "grid must be an integer between 1 and 1000000, got 'a'"),
    "no grid": ({"grid": None}, "does not describe a MAR model"),
    "infinite ratio": ({"mlp_ratio": float("inf")}, "mlp_ratio must be a number > 0, got inf"),
    "stranger": ({"width": 3}, "does not describe a MAR model"),
}


@pytest.mark.parametrize(("sizes", "words"), BAD_SIZES.values(), ids=BAD_SIZES.keys())
def test_folder_with_impossible_sizes(
    tmp_path: Path, tiny_model: MAR, sizes: dict[str, Any], words: str
) -> None:
    config = _save(tmp_path, tiny_model) / "config.json"
    record = json.loads(config.read_text())
    config.write_text(json.dumps({**record, "architecture": {**record["architecture"], **sizes}}))
    with pytest.raises(WeightsError, match=rf"config\.json does not describe a MAR model.*{words}|{words}"):
        read_description(tmp_path, "model.weights")


BAD_VAE: dict[str, tuple[dict[str, Any], str]] = {
    "unknown block": ({"down_block_types": ["Nothing"]}, "Nothing"),
    "text for a number": ({"latent_channels": "many"}, "does not describe an AutoencoderKL"),
    "layers without end": ({"layers_per_block": 10**7}, "it has more layers than its"),
    "text for layers": ({"layers_per_block": "x"}, "does not describe an AutoencoderKL"),
    "no channels": ({"block_out_channels": [0]}, "must be ≥ 1"),
    "text for channels": ({"block_out_channels": "ab"}, "must be ≥ 1"),
    "no groups": ({"norm_num_groups": 0}, "does not describe an AutoencoderKL"),
    "text for the scale": ({"scaling_factor": "x"}, "scaling_factor must be a finite number, got 'x'"),
    "no scale": ({"scaling_factor": 0}, "scaling_factor must be a finite number, got 0"),
    "shift that is no number": ({"shift_factor": float("nan")}, "shift_factor must be a finite number"),
}


@pytest.mark.parametrize(("values", "words"), BAD_VAE.values(), ids=BAD_VAE.keys())
def test_autoencoder_with_an_impossible_config(
    tmp_path: Path, tiny_model: MAR, values: dict[str, Any], words: str
) -> None:
    vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4)
    config = _save(tmp_path, tiny_model, KLAutoencoder(vae)) / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))
    with pytest.raises(WeightsError, match=words):
        load_kl_autoencoder(str(tmp_path))


def test_vae_that_does_not_fit_its_config(tmp_path: Path, tiny_model: MAR) -> None:
    vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4)
    folder = _save(tmp_path, tiny_model, KLAutoencoder(vae)) / "vae"
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"latent_channels": 4', '"latent_channels": 8'))
    with pytest.raises(
        WeightsError, match=r"does not fit its config\.json: encoder\.conv_out\.weight is \[8"
    ):
        load_kl_autoencoder(str(folder))
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has no diffusion_pytorch_model\.safetensors"):
        load_kl_autoencoder(str(folder))
