"""What a value of model.weights may name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from mar_accel.errors import WeightsError
from mar_accel.models.autoencoders import KLAutoencoder, PixelAutoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.weights import sources
from mar_accel.weights.folder import save_model_folder
from mar_accel.weights.loading import load_kl_autoencoder, load_mar


def _publish(hub, model: MAR, repo: str = "someone/tiny", autoencoder=None) -> None:
    save_model_folder(hub.root / repo, model, autoencoder, name="tiny", sampling={"guidance_scale": 2.0})
    (hub.root / repo / "huge.bin").write_bytes(b"not wanted")


def test_hub_repository(hub, tiny_model: MAR, tiny_config: MARConfig) -> None:
    _publish(hub, tiny_model, autoencoder=PixelAutoencoder())
    loaded = load_mar(tiny_config, "someone/tiny", "tiny")
    torch.testing.assert_close(loaded.state_dict(), tiny_model.state_dict(), rtol=0, atol=0)
    assert sorted(hub.requested) == ["config.json", "model.safetensors"]
    load_mar(tiny_config, "someone/tiny@main", "tiny")
    assert len(hub.requested) == 2, "the second time nothing is downloaded"


def test_autoencoder_of_hub_repository(hub, tiny_model: MAR) -> None:
    vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4, scaling_factor=0.5, shift_factor=0.1)
    _publish(hub, tiny_model, autoencoder=KLAutoencoder(vae))
    loaded = load_kl_autoencoder("someone/tiny")
    assert (loaded.scaling_factor, loaded.shift_factor, loaded.latent_channels) == (0.5, 0.1, 4)
    torch.testing.assert_close(loaded.vae.state_dict(), vae.state_dict(), rtol=0, atol=0)


def test_hub_refusals_are_one_sentence(hub, tiny_model: MAR, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(hub, tiny_model)
    (hub.root / "someone" / "empty").mkdir()
    for weights, words in {
        "someone/empty": "the Hub repository has none of config.json",
        "someone/unknown": "model.weights=someone/unknown is neither a local path nor a Hub repository",
        "someone/tiny@v7": "model.weights=someone/tiny@v7: the Hub repository lacks this revision",
    }.items():
        with pytest.raises(WeightsError, match=words):
            sources.locate(weights, "model.weights", ["config.json"])
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(WeightsError, match="cannot be downloaded from the Hub"):
        sources.locate("someone/tiny", "model.weights", ["config.json"])


def test_existing_path_goes_before_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "tiny").mkdir(parents=True)
    assert sources.locate("someone/tiny", "model.weights", []) == Path("someone/tiny")


@pytest.mark.parametrize("weights", ["nope.pth", "folder/nope.pth", "/no/where", "nothing", "a/b/c", "12"])
def test_missing_path(weights: str) -> None:
    with pytest.raises(
        WeightsError, match=rf"^model\.weights={weights} does not exist; use a file.*random\.$"
    ):
        sources.locate(weights, "model.weights", [])


def test_not_set_and_random() -> None:
    with pytest.raises(WeightsError, match=r"^model\.weights is not set; use"):
        sources.locate(None, "model.weights", [])
    assert sources.locate("random", "model.weights", []) is None


def test_embedded_model(tmp_path: Path, tiny_model: MAR, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in the package; one sentence where the package was built without it."""
    monkeypatch.setattr(sources, "embedded_folder", lambda name: tmp_path / name)
    with pytest.raises(WeightsError, match=r"lacks assets/digits/model\.safetensors"):
        sources.locate("digits", "model.weights", [])
    save_model_folder(tmp_path / "digits", tiny_model, name="digits", sampling={"guidance_scale": 2.0})
    assert sources.locate("digits", "model.weights", []) == tmp_path / "digits"
    shutil.rmtree(tmp_path / "digits")
