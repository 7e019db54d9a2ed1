"""Check that a state dict fits a module, and name the model it belongs to if it does not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mar_accel.config.compose import conf_dir
from mar_accel.errors import ConfigError, WeightsError
from mar_accel.models.kl16 import AUTOENCODER_KEY
from mar_accel.models.mar import MAR, MARConfig

Shapes = dict[str, tuple[int, ...]]
MAX_DIFFERENCES = 3
# With less agreement than this, no model is named as the likely source.
LIKELY = 0.5


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def require_fit(module: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Raise WeightsError unless ``state`` has exactly the keys and shapes of ``module``.

    Args:
        module: the module; it may be on the meta device.
        state: the state dict to check.
        what: start of the message, such as "model.weights=FILE does not fit model=mar_base".
    """
    strangers = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(f"{what}: {strangers[0]} is not a tensor; use a state dict.")
    differences = list_differences(shapes_of(module.state_dict()), shapes_of(state))
    if not differences:
        return
    shown = "; ".join(differences[:MAX_DIFFERENCES])
    more = len(differences) - MAX_DIFFERENCES
    shown += f"; and {more} more" if more > 0 else ""
    raise WeightsError(f"{what}: {shown}; {guess_model(shapes_of(state))}.")


def require_finite(state: Mapping[str, Tensor], what: str) -> None:
    """Raise WeightsError if a tensor has NaN or infinity, which would make every image black.

    Args:
        state: the state dict to check.
        what: start of the message, such as "model.weights=FILE".
    """
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise WeightsError(f"{what}: {key} has NaN or infinite values; copy or export the weights again.")


def list_differences(expected: Shapes, found: Shapes) -> list[str]:
    """One clause for each key that differs: expected keys in the module's order, then unknown keys."""
    differences = []
    for key, shape in expected.items():
        if key not in found:
            differences.append(f"{key} is missing")
        elif found[key] != shape:
            differences.append(f"{key} is {list(found[key])}, not {list(shape)}")
    return differences + [f"{key} is unknown" for key in found if key not in expected]


def guess_model(found: Shapes) -> str:
    """The last clause of a message: the model that these keys and shapes most likely belong to."""
    if "class_emb.weight" not in found and any(AUTOENCODER_KEY.match(key) for key in found):
        return "it holds an autoencoder, so set model.autoencoder.weights to it"
    scores = {name: _agreement(shapes, found) for name, shapes in known_models().items()}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] == 1:
        return f"it holds weights of model={best}"
    if scores[best] >= LIKELY:
        return f"it resembles model={best}: {int(100 * scores[best])} % of the parameters fit"
    return "it fits none of the known models (" + ", ".join(sorted(scores)) + ")"


@lru_cache
def known_models() -> dict[str, Shapes]:
    """Names and parameter shapes of the MAR models in ``conf/model``."""
    models = {}
    for path in sorted((conf_dir() / "model").glob("*.yaml")):
        architecture = OmegaConf.select(OmegaConf.load(path), "architecture")
        try:
            config = MARConfig(**OmegaConf.to_container(architecture))  # type: ignore[arg-type]
        except (TypeError, ValueError, ConfigError):
            continue  # another model family
        with torch.device("meta"):
            models[path.stem] = shapes_of(MAR(config).state_dict())
    return models


def _agreement(expected: Shapes, found: Shapes) -> float:
    """Share of keys with equal shapes among the keys of both sides; 0..1."""
    same = sum(found.get(key) == shape for key, shape in expected.items())
    return same / len(expected.keys() | found.keys())
