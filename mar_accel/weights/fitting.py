"""Check that a state dict fits a module, and name the model it belongs to if it does not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mar_accel.config.hydra_context import conf_dir
from mar_accel.errors import ConfigError, WeightsError
from mar_accel.models.families import architecture_of, make_network
from mar_accel.models.kl16 import AUTOENCODER_KEY
from mar_accel.utils.weight_tensors import unusable_kind

Shapes = dict[str, tuple[int, ...]]
MAX_DIFFERENCES = 3
# With less agreement than this, no model is named as the likely source.
LIKELY = 0.5
# Names that only one kind of autoencoder has, and words for that kind.
AUTOENCODERS = (
    (re.compile(r"decoder\.decoder_embed\."), "DeTok's tokenizer, the autoencoder of model=detok_base"),
    (re.compile(r"decoder\.up_blocks\.\d+\.\d+\."), "DC-AE, the autoencoder of model=emigm_base_512"),
    (re.compile(r"decoder\.(mid|mid_block)\."), "an AutoencoderKL, which model=mar_base and others have"),
)


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def require_fit(module: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Raise WeightsError unless ``state`` has the keys and shapes of ``module``, and finite real numbers.

    Args:
        module: the module; it may be on the meta device.
        state: the state dict to check.
        what: start of the message, such as "model.weights=FILE does not fit model=mar_base".
    """
    strangers = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(f"{what}: {strangers[0]} is not a tensor; use a state dict.")
    where = what.partition(" does not fit")[0]
    # Nested tensors have no shape to compare.
    _require_dense({key: value for key, value in state.items() if value.is_nested}, where)
    differences = list_differences(shapes_of(module.state_dict()), shapes_of(state))
    if not differences:
        _require_numbers(state, where)
        return
    shown = "; ".join(differences[:MAX_DIFFERENCES])
    more = len(differences) - MAX_DIFFERENCES
    shown += f"; and {more} more" if more > 0 else ""
    wanted = what.startswith("model.autoencoder")
    raise WeightsError(f"{what}: {shown}; {guess_model(shapes_of(state), wanted)}.")


def _require_numbers(state: Mapping[str, Tensor], where: str) -> None:
    """Raise WeightsError unless every tensor has real, finite numbers that float32 can hold."""
    _require_dense(state, where)
    for key, value in state.items():
        if not torch.isfinite(value.to(torch.float32)).all():
            raise WeightsError(
                f"{where}: {key} has NaN or infinite values; use a checkpoint from before the training "
                "diverged."
            )


def _require_dense(state: Mapping[str, Tensor], where: str) -> None:
    """Raise WeightsError for a tensor that is no plain array of real numbers."""
    for key, value in state.items():
        kind = unusable_kind(value)
        if kind is not None:
            raise WeightsError(
                f"{where}: {key} is {kind}; save the weights as dense float32, float16 or bfloat16."
            )


def list_differences(expected: Shapes, found: Shapes) -> list[str]:
    """One clause for each key that differs: expected keys in the module's order, then unknown keys."""
    differences = []
    for key, shape in expected.items():
        if key not in found:
            differences.append(f"{key} is missing")
        elif found[key] != shape:
            differences.append(f"{key} is {list(found[key])}, not {list(shape)}")
    return differences + [f"{key} is unknown" for key in found if key not in expected]


def guess_model(found: Shapes, autoencoder_wanted: bool = False) -> str:
    """The last clause of a message: the model that these keys and shapes most likely belong to.

    Args:
        found: keys and shapes.
        autoencoder_wanted: whether the file was given as an autoencoder.
    """
    if "class_emb.weight" not in found and any(AUTOENCODER_KEY.match(key) for key in found):
        advice = "" if autoencoder_wanted else ", so set model.autoencoder.weights to it"
        return f"it holds {_autoencoder_in(found)}{advice}"
    scores = {name: _agreement(shapes, found) for name, shapes in known_models().items()}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] == 1:
        # Models that differ in their autoencoder alone have the same weights.
        equal = sorted((name for name, score in scores.items() if score == 1), key=len)
        return f"it holds weights of model={' or '.join(equal)}"
    if scores[best] >= LIKELY:
        return f"it resembles model={best}: {int(100 * scores[best])} % of the parameters fit"
    return "it fits none of the known models (" + ", ".join(sorted(scores)) + ")"


@lru_cache
def known_models() -> dict[str, Shapes]:
    """Names and parameter shapes of the models in ``conf/model``."""
    models = {}
    for path in sorted((conf_dir() / "model").glob("*.yaml")):
        try:
            config = architecture_of(_architecture(path))
        except (TypeError, KeyError, ValueError, ConfigError):
            continue  # a user's own model of another family
        with torch.device("meta"):
            models[path.stem] = shapes_of(make_network(config).state_dict())
    return models


def _autoencoder_in(found: Shapes) -> str:
    """Words for the autoencoder that has these keys."""
    for pattern, words in AUTOENCODERS:
        if any(pattern.match(key) for key in found):
            return words
    return "an autoencoder"


def _architecture(path: Path) -> dict[str, Any]:
    """The node ``architecture`` of a model, with that of the model it inherits from."""
    config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    own = config.get("architecture") or {}
    for base in config.get("defaults") or ():
        if isinstance(base, str) and base != "_self_":
            return {**_architecture(path.with_name(f"{base}.yaml")), **own}
    return own


def _agreement(expected: Shapes, found: Shapes) -> float:
    """Share of keys with equal shapes among the keys of both sides; 0..1."""
    same = sum(found.get(key) == shape for key, shape in expected.items())
    return same / len(expected.keys() | found.keys())
