"""Model folders: written whole, read back, refused where they are of another model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from mar_accel.errors import WeightsError
from mar_accel.models.autoencoders import Autoencoder, KLAutoencoder, PixelAutoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.weights.folder import read_description, save_model_folder
from mar_accel.weights.loading import load_kl_autoencoder, load_mar

SAMPLING = {"guidance_scale": 2.5}


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
    for text in ("{", "[]", "{}", json.dumps({**record, "autoencoder": "os.system"})):
        config.write_text(text)
        with pytest.raises(WeightsError, match=r"config\.json does not describe a MAR model"):
            load_mar(tiny_config, str(folder), "tiny")


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
