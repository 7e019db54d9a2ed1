"""Reads the ``text_encoder/`` of a model folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mar_accel.errors import WeightsError
from mar_accel.models.text_encoder import T5Size, make_t5_encoder
from mar_accel.utils.packages import import_transformers
from mar_accel.weights.files import read_tensors
from mar_accel.weights.fitting import require_fit
from mar_accel.weights.folder import MODEL_FILE, TEXT_ENCODER_FOLDER
from mar_accel.weights.json_config import CONFIG_FILE, read_config
from mar_accel.weights.loading import MODEL_HUB_FILES, MODEL_KEY
from mar_accel.weights.random_weights import SEED
from mar_accel.weights.sources import locate

TEXT_ENCODER_FILES = tuple(f"{TEXT_ENCODER_FOLDER}/{name}" for name in (CONFIG_FILE, MODEL_FILE))
SHARED = ("shared.weight", "encoder.embed_tokens.weight")


def load_text_encoder(folder: Path, key: str) -> nn.Module:
    """Load a T5 encoder that transformers has saved, in float32.

    Args:
        folder: the ``text_encoder/`` of a model folder.
        key: config key that named the folder, for messages.

    Raises:
        WeightsError: a file is missing, damaged, asks for code to be run, or does not fit.
    """
    transformers = import_transformers("a text encoder")
    state = read_tensors(folder / MODEL_FILE, key).tensors
    # The two are one tensor, of which transformers saves one name.
    for name, same in (SHARED, SHARED[::-1]):
        if same in state:
            state.setdefault(name, state[same])
    try:
        values = read_config(folder / CONFIG_FILE)
        # Each layer has some tensors, so more layers than tensors cannot fit, and would take hours to build.
        if not 1 <= values["num_layers"] <= len(state):
            raise ValueError(f"num_layers must be between 1 and {len(state)}, got {values['num_layers']}")
        config = transformers.T5Config.from_dict(values)
        with torch.device("meta"):
            shapes = transformers.T5EncoderModel(config)
    except Exception as error:  # transformers checks nothing, so that a wrong value may fail anywhere
        raise _no_text_encoder(folder / CONFIG_FILE, key, error) from error
    require_fit(shapes, state, f"{key}={folder} does not fit its {CONFIG_FILE}")
    encoder: nn.Module = transformers.T5EncoderModel(config).float()
    encoder.load_state_dict(state)
    return encoder


def _no_text_encoder(file: Path, key: str, error: Exception) -> WeightsError:
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return WeightsError(
        f"{key}: {file} does not describe a T5 encoder ({type(error).__name__}: {reason}); write the folder "
        "again."
    )


def load_word_encoder(weights: str | None, size: T5Size | None = None) -> nn.Module:
    """Load the text encoder that was trained with a model, in float32 and evaluation mode.

    Args:
        weights: source of the model's weights: a folder, a Hub repository id, an embedded model or "random".
        size: sizes that the encoder must have. None: any, but not for "random".

    Raises:
        WeightsError: there is no text encoder, it is damaged, or it has other sizes.
    """
    folder = locate(weights, MODEL_KEY, (*MODEL_HUB_FILES, *TEXT_ENCODER_FILES))
    if folder is None:
        assert size is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return make_t5_encoder(size).eval()
    if not (folder / TEXT_ENCODER_FOLDER / MODEL_FILE).is_file():
        raise WeightsError(
            f"{MODEL_KEY}={folder} has no {TEXT_ENCODER_FOLDER}/{MODEL_FILE}; use a folder that "
            "python -m mar_accel.train has written."
        )
    encoder = load_text_encoder(folder / TEXT_ENCODER_FOLDER, MODEL_KEY).eval()
    config: Any = encoder.config
    found = T5Size(config.vocab_size, config.d_model, config.num_heads, config.d_ff, config.num_layers)
    if size is not None and found != size:
        ours, theirs = asdict(size), asdict(found)
        different = [name for name in ours if theirs[name] != ours[name]]
        values = ", ".join(f"{name} is {theirs[name]}, not {ours[name]}" for name in different)
        raise WeightsError(
            f"{MODEL_KEY}={folder}: its text encoder does not fit model.text_encoder: {values}."
        )
    return encoder
