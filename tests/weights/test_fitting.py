"""Weights of another model are refused with what differs and whose they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mar_accel.config.compose import compose_settings
from mar_accel.errors import WeightsError
from mar_accel.models.detok import DeTok, DeTokConfig
from mar_accel.models.kl16 import kl16_autoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.models.sd3_vae import sd3_autoencoder
from mar_accel.weights.dc_autoencoder import dc_autoencoder
from mar_accel.weights.fitting import guess_model, known_models, require_fit, shapes_of
from mar_accel.weights.loading import load_kl_autoencoder, load_mar

MANIFESTS = Path(__file__).parents[1] / "data" / "golden" / "manifests"


@pytest.mark.parametrize("name", ["mar_base", "mar_large", "mar_huge"])
def test_published_layouts_are_recognised(name: str) -> None:
    shapes = {
        key: tuple(shape) for key, shape in json.loads((MANIFESTS / f"{name}.json").read_text()).items()
    }
    # Other families may have the same layout; the shortest name comes first.
    assert guess_model(shapes).split(" or ")[0] == f"it holds weights of model={name}"
    del shapes["mask_token"]
    size = name.partition("_")[2]
    words = rf"it resembles model=\w+_{size}(_512)?: 99 % of the parameters fit"
    assert re.match(words, guess_model(shapes))


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_layouts_of_text_models_are_recognised(size: str) -> None:
    shapes = json.loads((MANIFESTS / f"lightgen_fluid_{size}.json").read_text())
    found = guess_model({key: tuple(shape) for key, shape in shapes.items()})
    assert found == f"it holds weights of model=lightgen_{size}"


def test_foreign_layouts_are_not() -> None:
    assert "fits none of the known models" in guess_model({"patch_embed.proj.weight": (768, 3, 16, 16)})


def test_autoencoders_are_recognised() -> None:
    with torch.device("meta"):
        networks = {"AutoencoderKL": (kl16_autoencoder(), sd3_autoencoder())}
        networks["DC-AE"], networks["DeTok's tokenizer"] = (dc_autoencoder(),), (DeTok(DeTokConfig()),)
    for name, made in networks.items():
        for network in made:
            words = guess_model(shapes_of(network.state_dict()))
            assert name in words and words.endswith("set model.autoencoder.weights to it")
    published = {"decoder.mid.block_1.norm1.weight": (512,)}
    assert guess_model(published, autoencoder_wanted=True).endswith("model=mar_base and others have")


def test_every_model_is_recognised_in_the_place_of_every_other() -> None:
    models = known_models()
    for name, shapes in models.items():
        equal = {other for other, theirs in models.items() if theirs == shapes}
        words = guess_model(shapes)
        assert words.startswith("it holds weights of model=")
        assert set(words.partition("model=")[2].split(" or ")) == equal and name in equal
    assert len(models) >= 19


def test_first_differences_are_named(tiny_model: MAR) -> None:
    state = dict(tiny_model.state_dict())
    require_fit(tiny_model, state, "x")
    state["z_proj.weight"] = torch.zeros(8, 4)
    del state["mask_token"]
    state["extra"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        require_fit(tiny_model, state, "model.weights=F does not fit model=tiny")
    assert str(caught.value).startswith(
        "model.weights=F does not fit model=tiny: mask_token is missing; "
        "z_proj.weight is [8, 4], not [8, 1]; extra is unknown; it "
    )


def test_only_the_first_three_are_shown(tiny_model: MAR) -> None:
    with pytest.raises(WeightsError, match=rf"; and {len(tiny_model.state_dict()) - 3} more; it"):
        require_fit(tiny_model, {}, "x")


def test_checkpoint_of_another_size(tmp_path: Path) -> None:
    """A file of the embedded model for MAR-B: nothing of MAR-B's size is allocated to find out."""
    architecture = MARConfig(**compose_settings("generate", ["model=digits"]).model.architecture)
    path = tmp_path / "digits.safetensors"
    save_file(load_mar(architecture, "random", "digits").state_dict(), path)
    with pytest.raises(WeightsError) as caught:
        load_mar(MARConfig(), str(path), "mar_base")
    message = str(caught.value)
    assert message.startswith(
        f"model.weights={path} does not fit model=mar_base: fake_latent is [1, 96], not [1, 768]"
    )
    assert message.endswith("it holds weights of model=digits.")


def test_model_in_place_of_an_autoencoder(tmp_path: Path, tiny_model: MAR) -> None:
    save_file(tiny_model.state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(
        WeightsError, match=r"model\.autoencoder\.weights=\S+ holds a MAR model, not an autoencoder"
    ):
        load_kl_autoencoder(str(tmp_path / "m.safetensors"))
