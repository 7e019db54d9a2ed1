"""KL-16 under the published names; its numbers are checked in tests/parity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mar_accel.errors import WeightsError
from mar_accel.models.autoencoders import KLAutoencoder
from mar_accel.models.kl16 import (
    diffusers_name,
    diffusers_names,
    has_latent_diffusion_names,
    kl16_autoencoder,
)
from mar_accel.weights.fitting import shapes_of
from mar_accel.weights.loading import load_kl_autoencoder

RECORDED = Path(__file__).parents[1] / "data" / "golden" / "kl16_vae.safetensors"


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """Every published key with its shape; the values take no memory."""
    with safe_open(RECORDED, "pt") as file:
        shapes = json.loads(file.metadata()["case"])["shapes"]
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


def test_published_names_are_all_renamed(published: dict[str, torch.Tensor]) -> None:
    with torch.device("meta"):
        expected = shapes_of(kl16_autoencoder().state_dict())
    assert shapes_of(diffusers_names(published)) == expected
    assert has_latent_diffusion_names(published) and not has_latent_diffusion_names(
        diffusers_names(published)
    )


def test_the_loss_of_its_training_is_left_out(published: dict[str, torch.Tensor]) -> None:
    with_loss = {
        **published,
        "loss.discriminator.main.0.weight": torch.zeros(1),
        "loss.logvar": torch.zeros(()),
    }
    assert diffusers_names(with_loss).keys() == diffusers_names(published).keys()


@pytest.mark.parametrize(
    ("published_name", "name"),
    [
        ("decoder.up.0.block.2.conv1.weight", "decoder.up_blocks.4.resnets.2.conv1.weight"),
        ("decoder.up.4.upsample.conv.bias", "decoder.up_blocks.0.upsamplers.0.conv.bias"),
        ("encoder.down.4.attn.1.proj_out.weight", "encoder.down_blocks.4.attentions.1.to_out.0.weight"),
        ("encoder.down.2.block.0.nin_shortcut.bias", "encoder.down_blocks.2.resnets.0.conv_shortcut.bias"),
        ("encoder.mid.attn_1.norm.weight", "encoder.mid_block.attentions.0.group_norm.weight"),
        ("decoder.norm_out.bias", "decoder.conv_norm_out.bias"),
        ("post_quant_conv.weight", "post_quant_conv.weight"),
    ],
)
def test_names(published_name: str, name: str) -> None:
    assert diffusers_name(published_name) == name


@pytest.mark.slow
def test_published_file(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    """``kl16.ckpt`` is read, scaled and refused where a key is missing."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
        for key, value in published.items()
    }
    torch.save({"model": {**weights, "loss.logvar": torch.zeros(())}}, tmp_path / "kl16.ckpt")
    loaded = load_kl_autoencoder(str(tmp_path / "kl16.ckpt"))
    assert torch.equal(
        loaded.vae.decoder.up_blocks[4].resnets[2].conv1.weight, weights["decoder.up.0.block.2.conv1.weight"]
    )
    latents = torch.randn(1, 16, 2, 2, generator=generator)
    with torch.no_grad():
        image = loaded.decode(latents)
        assert image.shape == (1, 3, 32, 32)
        assert torch.equal(image, (loaded.vae.decode(latents / 0.2325).sample + 1) / 2)
        mean = loaded.vae.encode(image * 2 - 1).latent_dist.mean
        torch.testing.assert_close(loaded.encode(image), mean * 0.2325)
    del weights["decoder.conv_in.weight"]
    torch.save({"model": weights}, tmp_path / "less.ckpt")
    with pytest.raises(
        WeightsError, match=r"less\.ckpt does not fit KL-16: decoder\.conv_in\.weight is missing"
    ):
        load_kl_autoencoder(str(tmp_path / "less.ckpt"))


def test_shift_and_scale_are_undone() -> None:
    """Decoding takes back what encoding did to the latents."""

    class Identity(torch.nn.Module):
        class config:
            scaling_factor, shift_factor, latent_channels = 0.5, 0.25, 3

        def encode(self, images: torch.Tensor):
            distribution = type("Distribution", (), {"mode": lambda self: images})()
            return type("Output", (), {"latent_dist": distribution})()

        def decode(self, latents: torch.Tensor):
            return type("Output", (), {"sample": latents})()

    images, autoencoder = torch.rand(2, 3, 4, 4), KLAutoencoder(Identity())
    torch.testing.assert_close(autoencoder.encode(images), ((images * 2 - 1) - 0.25) * 0.5)
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images)), images)
