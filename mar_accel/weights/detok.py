"""Load l-DeTok's tokenizer, with the latent statistics of its file stats.pkl."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mar_accel.errors import ConfigError, WeightsError
from mar_accel.models.detok import DeTok, DeTokAutoencoder, DeTokConfig
from mar_accel.models.sizes import check_memory
from mar_accel.weights.autoencoder_folder import DETOK, STATISTICS, VAE_FILE, VAE_FOLDER, find_autoencoder
from mar_accel.weights.files import read_tensors
from mar_accel.weights.fitting import require_fit
from mar_accel.weights.hub_files import HUB_FILE, fetch_hub_file
from mar_accel.weights.json_config import CONFIG_FILE, read_config
from mar_accel.weights.loading import (
    AUTOENCODER_HUB_FILES,
    AUTOENCODER_KEY,
    DETOK_STATISTICS,
    DETOK_TOKENIZERS,
)
from mar_accel.weights.random_weights import fill_randomly
from mar_accel.weights.sources import locate

STATS_KEY = "model.autoencoder.statistics"
PUBLISHED_STATISTICS = "detok-BB-gamm3.0-m0.7"
# A file of statistics has a few hundred numbers. More is not one.
MAX_STATS_BYTES = 50_000_000


def load_detok(
    weights: str | None, statistics: str | None = None, statistics_key: str = PUBLISHED_STATISTICS
) -> DeTokAutoencoder:
    """Load the tokenizer of DeTok on the CPU, in float32 and evaluation mode.

    Args:
        weights: one of four sources.
            1. A file of ``detok_BB``, which may be on the Hub: ``owner/name:file``.
            2. A folder or Hub repository with a published file of ``detok_BB``.
            3. A model folder, whose ``vae/`` holds a tokenizer of any size with its statistics.
            4. "random": random weights of ``detok_BB``, and latents as they are.
        statistics: ``stats.pkl`` of the published repository: a file, or ``owner/name:file``. None: the one
            in the model folder, or in the folder or repository of the weights.
        statistics_key: name of the statistics in it. The tuned decoder has those of the untuned one.

    Raises:
        WeightsError: weights or statistics are missing, damaged or of another tokenizer, or ask for code to
            be run.
    """
    path = locate(weights, AUTOENCODER_KEY, (DETOK_TOKENIZERS[0], DETOK_STATISTICS, *AUTOENCODER_HUB_FILES))
    saved = None
    if path is not None and path.is_dir():
        saved = find_autoencoder(path, DETOK, AUTOENCODER_KEY)
    tokenizer = _tokenizer(DeTokConfig() if saved is None else _read_sizes(saved / CONFIG_FILE))
    channels = tokenizer.config.token_channels
    if path is None:
        fill_randomly(tokenizer.to_empty(device="cpu"))
        ones = torch.ones(channels, dtype=torch.float32, device="cpu")
        return DeTokAutoencoder(tokenizer, ones * 0, ones).eval()
    file = _weight_file(path) if saved is None else saved / VAE_FILE
    state = read_tensors(file, AUTOENCODER_KEY).tensors
    own = [state.pop(name, None) for name in STATISTICS] if saved is not None else []
    fits = f"its {CONFIG_FILE}" if saved is not None else "detok_BB"
    require_fit(tokenizer, state, f"{AUTOENCODER_KEY}={file} does not fit {fits}")
    if saved is not None and statistics is None:
        mean, std = _checked_statistics(own, channels, f"{AUTOENCODER_KEY}={file}")
    else:
        mean, std = read_statistics(_statistics_file(weights, file, statistics), statistics_key, channels)
    tokenizer.to_empty(device="cpu").load_state_dict(state)
    return DeTokAutoencoder(tokenizer, mean, std).eval()


def _tokenizer(config: DeTokConfig) -> DeTok:
    """A tokenizer without storage."""
    with torch.device("meta"):
        tokenizer = DeTok(config)
    check_memory(tokenizer)
    return tokenizer


def _read_sizes(path: Path) -> DeTokConfig:
    """The sizes in the ``config.json`` of a saved tokenizer."""
    values = {key: value for key, value in read_config(path).items() if not key.startswith("_")}
    try:
        if isinstance(values.get("grid"), list):
            values["grid"] = tuple(values["grid"])
        return DeTokConfig(**values)
    except (TypeError, ConfigError) as error:
        raise WeightsError(
            f"{AUTOENCODER_KEY}: {path} does not describe a tokenizer of DeTok ({error}); write it again."
        ) from error


def _weight_file(path: Path) -> Path:
    if path.is_file():
        return path
    for name in DETOK_TOKENIZERS:
        if (path / name).is_file():
            return path / name
    raise WeightsError(
        f"{AUTOENCODER_KEY}={path} has none of {', '.join(DETOK_TOKENIZERS)}, and no {VAE_FOLDER} with a "
        "tokenizer of DeTok; use the tokenizer's file."
    )


def _statistics_file(weights: str | None, file: Path, statistics: str | None) -> Path:
    """The file of statistics: the given one, or the one in the folder or repository of the weights."""
    if statistics is None:
        hub = HUB_FILE.fullmatch(str(weights))
        # A file that is on this machine under the given name was not fetched.
        if hub is not None and file != Path(str(weights)).expanduser():
            return fetch_hub_file(hub["repo"], DETOK_STATISTICS, hub["revision"], STATS_KEY)
        return file.parent / DETOK_STATISTICS
    found = locate(statistics, STATS_KEY, ())
    if found is None:
        raise WeightsError(f"{STATS_KEY}={statistics} is no file; use the published {DETOK_STATISTICS}.")
    return found


def read_statistics(path: Path, name: str, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of the latents, from a file like the published ``stats.pkl``.

    The file is a pickle of {name: {"channel": (mean, std), …}} with torch tensors. "channel" entries hold
    the posterior means first, then log-variances. Nothing but tensors is unpickled.

    Args:
        path: the file.
        name: name of the statistics.
        channels: number of channels C.

    Raises:
        WeightsError: the file is missing or damaged, asks for code to be run, or lacks the statistics.
    """
    where = f"{STATS_KEY}={path}"
    if not path.is_file():
        raise WeightsError(
            f"{where} does not exist; put the published {DETOK_STATISTICS} beside the weights, or set "
            f"{STATS_KEY}."
        )
    if path.stat().st_size > MAX_STATS_BYTES:
        raise WeightsError(
            f"{where} is too large for a file of statistics; use the published {DETOK_STATISTICS}."
        )
    try:
        content = _TensorUnpickler(io.BytesIO(path.read_bytes())).load()
    except _RefusedError as error:
        raise WeightsError(
            f"{where} asks for code to be run when it is opened ({error}), which is refused; use a file that "
            "holds only tensors."
        ) from error
    except Exception as error:  # an unpickler on damaged data may raise anything
        raise WeightsError(f"{where} is damaged or not a file of statistics; copy it again.") from error
    if not isinstance(content, Mapping) or name not in content:
        there = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(f"{where} has no statistics named {name}, but {there}; set statistics_key.")
    try:
        values = [_vector(value)[:channels] for value in content[name]["channel"]]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{where}: {name} has no channel statistics (mean, std); copy it again."
        ) from error
    return _checked_statistics(values, channels, f"{where}: {name}")


def _checked_statistics(values: Sequence[Tensor | None], channels: int, where: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation [C] of the latents, if they are numbers that latents can be normalised with."""
    mean, std = values if len(values) == 2 else (None, None)
    if (
        mean is None
        or std is None
        or mean.shape != (channels,)
        or std.shape != (channels,)
        or not (std > 0).all()
        or not torch.stack([mean, std]).isfinite().all()
    ):
        raise WeightsError(f"{where} must have {channels} finite means and deviations > 0.")
    return mean, std


def _vector(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32, device="cpu").flatten()


class _RefusedError(Exception):
    """Names what a pickle wants to import."""


def _load_storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers and tensors, and refuses all else."""

    ALLOWED: Mapping[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        # The original calls torch.load without weights_only.
        ("torch.storage", "_load_from_bytes"): _load_storage,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None
