"""Features of a published T5: a tiny one with a tokenizer of words stands for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError, MarAccelError, WeightsError
from mar_accel.inference.session import Session
from mar_accel.models.sd3_vae import sd3_autoencoder
from mar_accel.models.text_encoder import T5Size, make_t5_encoder
from mar_accel.weights.loading import load_kl_autoencoder
from mar_accel.weights.t5 import T5TextEncoder

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "cat", "dog", "on", "grass"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as that of flan-t5-xxl on the Hub, with one shard."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("t5")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    make_t5_encoder(T5Size(len(WORDS), dim=16, num_heads=2, ff_dim=16, depth=1)).save_pretrained(path)
    return path


def _encoder(folder: Path, cache: Path, **changes: object) -> T5TextEncoder:
    arguments: dict[str, object] = {"length": 6, "width": 16, "dtype": "float32", "device": "cpu"}
    return T5TextEncoder(str(folder), cache_dir=str(cache), **(arguments | changes))  # type: ignore[arg-type]


def _direct(folder: Path, ids: list[int]) -> Tensor:
    from transformers import T5EncoderModel

    model = T5EncoderModel.from_pretrained(folder).eval()
    mask = torch.tensor([[int(i != 0) for i in ids]])
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]


def test_features_are_those_of_the_padded_prompt(folder: Path, tmp_path: Path) -> None:
    encoder = _encoder(folder, tmp_path)
    encoder.prepare(["a red cat"])
    expected = _direct(folder, [3, 4, 5, 1, 0, 0])
    torch.testing.assert_close(encoder.features("a red cat"), expected)
    assert encoder.shape == (6, 16)


def test_long_prompts_are_cut_and_told(folder: Path, tmp_path: Path) -> None:
    encoder = _encoder(folder, tmp_path)
    assert encoder.check(["a red cat"], "prompt") == []
    (note,) = encoder.check(["a", "a red cat on grass a dog"], "prompt")
    assert note == 'prompt[1] has more than 6 tokens; cut off: "a dog".'
    torch.testing.assert_close(
        encoder.features("a red cat on grass a dog"), _direct(folder, [3, 4, 5, 7, 8, 1])
    )


def test_features_are_kept_by_the_prompts_hash(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _encoder(folder, tmp_path)
    first.prepare(["a cat", "a/../dog\n"])
    files = sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors")
    assert len(files) == 2 and all(len(name) == 32 + len(".safetensors") for name in files)
    again = _encoder(folder, tmp_path)
    monkeypatch.setattr(T5TextEncoder, "_load_encoder", lambda self: pytest.fail("T5 is loaded"))
    again.prepare(["a cat", "a/../dog\n"])
    assert torch.equal(again.features("a cat"), first.features("a cat"))
    # Another length gives other features.
    with pytest.raises(pytest.fail.Exception):
        _encoder(folder, tmp_path, length=7).prepare(["a cat"])


def test_features_of_other_weights_in_the_same_folder_are_made_again(folder: Path, tmp_path: Path) -> None:
    from transformers import T5EncoderModel

    mine = tmp_path / "t5"
    shutil.copytree(folder, mine)
    before = _encoder(mine, tmp_path).features("a cat")
    encoder: Any = T5EncoderModel.from_pretrained(mine)
    with torch.no_grad():
        encoder.shared.weight.add_(1.0)
    encoder.save_pretrained(mine)
    assert not torch.equal(before, _encoder(mine, tmp_path).features("a cat"))


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    wrong: list[tuple[T5TextEncoder, str]] = [
        (
            _encoder(tmp_path / "no", tmp_path),
            r"weights=.*no does not exist; use a folder with encoder and tokenizer",
        ),
        (_encoder(tmp_path, tmp_path), "has no usable tokenizer"),
        (_encoder(folder, tmp_path, width=32), "has features of width 16, but the model takes 32"),
    ]
    for encoder, words in wrong:
        with pytest.raises(WeightsError, match=words) as error:
            encoder.check(["a cat"], "prompt")
            encoder.prepare(["a cat"])
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes; run pip install -e '\.\[text-8bit\]'"):
        _encoder(folder, tmp_path, quantization="8bit").prepare(["a dog"])


def test_random_features_need_no_files(tmp_path: Path) -> None:
    encoder = T5TextEncoder("random", length=5, width=3, cache_dir=str(tmp_path / "none"))
    assert encoder.check(["a"], "prompt") == []
    encoder.prepare(["a"])
    assert torch.equal(encoder.features("a"), encoder.features("a"))
    assert not torch.equal(encoder.features("a"), encoder.features("b"))
    assert not (tmp_path / "none").exists()


def test_lightgen_samples_with_t5_and_vae_from_folders(folder: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=4, latent_channels=16,
        scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "sd3" / "vae")
    sizes = ["embed_dim=32", "num_heads=2", "encoder_depth=1", "decoder_depth=1", "cross_depth=1"]
    sizes += ["text_depth=1", "head_depth=1", "head_width=32", "caption_channels=16", "max_text_length=6"]
    overrides = [f"model.architecture.{size}" for size in sizes] + [
        "model=lightgen_base", "model.weights=random", "model.image_size=[64,32]",
        f"model.text_encoder.weights={folder}", f"model.text_encoder.cache_dir={tmp_path / 'features'}",
        "model.text_encoder.dtype=float32", f"model.autoencoder.weights={tmp_path / 'sd3'}",
        "dataset=prompts", "dataset.prompts=[a red cat,a dog]", "sampler=lightgen", "sampler.num_iter=3",
        "sampler.num_diffusion_steps=3",
    ]  # fmt: skip
    session = Session.from_settings(compose_settings("generate", overrides))
    prediction = session.sample([0, 1], torch.tensor([0, 1]))
    assert prediction.images.shape == (2, 3, 64, 32) and bool(prediction.finite.all())
    latents = session.model.unpatchify(prediction.tokens)
    with torch.inference_mode():
        expected = (vae.eval().decode(latents / 1.5305 + 0.0609).sample + 1) / 2
    torch.testing.assert_close(prediction.images, expected)


@pytest.mark.slow
def test_random_weights_of_the_published_vae_have_its_layout() -> None:
    vae = load_kl_autoencoder("random", layout="sd3")
    assert vae.image_shape((16, 64, 64)) == (3, 512, 512)
    config = sd3_autoencoder().config  # type: ignore[attr-defined]
    assert (config["scaling_factor"], config["shift_factor"]) == (1.5305, 0.0609)
    assert not any("quant_conv" in name for name in vae.state_dict())


def test_a_gated_repository_says_how_to_get_it(hub: Any) -> None:
    config = hub.root / "stabilityai" / "stable-diffusion-3.5-large" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text("{}")
    hub.refuses = (403, "GatedRepo")
    with pytest.raises(MarAccelError, match=r"gated Hub repository; accept its licence at https://") as error:
        load_kl_autoencoder("stabilityai/stable-diffusion-3.5-large", layout="sd3")
    assert "hf auth login" in str(error.value)
