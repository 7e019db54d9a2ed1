"""Checks of the arguments of :class:`mar_accel.MARPipeline`, each with one sentence for the user."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from torch import Tensor

from mar_accel.config.check import check_node
from mar_accel.config.overrides import group_of
from mar_accel.data.pictures import is_transparent
from mar_accel.errors import ConfigError
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.text_encoder import TextEncoder

_NAME = re.compile(r"\w[\w.-]*")
_GROUPS = ("sampler", "cache")
# Modes of PIL with 8 bits per channel. The others are cut off when they are converted.
_PIL_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")


def shown(value: Any) -> str:
    """A value in one short line, for messages."""
    return shorten(" ".join(repr(value).split()), 80, placeholder=" …")


def path_of(name: str, value: Any) -> str:
    """A path or name as text; ConfigError if it is something else, or empty."""
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise ConfigError(f"{name} must be a path or a name, got {shown(value)}.")
    return str(value)


def member(name: str, value: Any) -> str:
    """The name of a member of a config group; ConfigError if it cannot be one."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigError(f"{name} must be the name of one member, got {shown(value)}.")
    return value


def switch(name: str, value: Any) -> bool:
    """True or False; ConfigError for anything else."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {shown(value)}.")
    return value


def check_parts(model: Any, autoencoder: Any, name: Any, sampling: Any, text_encoder: Any) -> None:
    """Refuse objects that are no parts of a pipeline."""
    kinds = {"model": TokenBackbone, "autoencoder": Autoencoder, "text_encoder": TextEncoder}
    for key, value in (("model", model), ("autoencoder", autoencoder), ("text_encoder", text_encoder)):
        if not isinstance(value, kinds[key]) and not (key == "text_encoder" and value is None):
            raise ConfigError(f"{key} must be a {kinds[key].__name__}, got {shown(value)}.")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"name must be a word, such as mar_base, got {shown(name)}.")
    if sampling is not None and not (
        isinstance(sampling, Mapping) and all(isinstance(key, str) for key in sampling)
    ):
        raise ConfigError(f"sampling must be settings by name, got {shown(sampling)}.")


def check_place(*args: Any, **kwargs: Any) -> None:
    """Refuse a device or dtype that a pipeline cannot have; arguments as in ``nn.Module.to``."""
    try:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        torch.empty(0, device=device, dtype=dtype)
    except Exception as error:  # each backend raises its own
        given = ", ".join(map(shown, (*args, *kwargs.values())))
        raise ConfigError(
            f"to({given}) is not possible: {str(error).splitlines()[0].rstrip('.')}."
        ) from error
    if dtype is not None and not dtype.is_floating_point:
        raise ConfigError(f"dtype must be a floating point type, such as torch.float32, got {dtype}.")


def integer(name: str, value: Any, minimum: int) -> int:
    """An integer of Python, numpy or torch, at least ``minimum``."""
    number = _index(value)
    if number is None:
        raise ConfigError(f"{name} must be an integer, got {shown(value)}.")
    if number < minimum:
        raise ConfigError(f"{name} must be ≥ {minimum}, got {number}.")
    return number


def numbers(**values: Any) -> dict[str, float]:
    """The values that are not None; ConfigError unless each is a finite number."""
    given = {key: value for key, value in values.items() if value is not None}
    for key, value in given.items():
        number = value.tolist() if hasattr(value, "tolist") else value
        try:
            ok = not isinstance(number, (bool, str)) and math.isfinite(number)
        except (TypeError, ValueError, OverflowError):
            ok = False
        if not ok:
            raise ConfigError(f"{key} must be a finite number, got {shown(value)}.")
        given[key] = number if isinstance(number, (int, float)) else float(number)
    return given


def prompts_of(value: Any) -> list[str]:
    """One prompt or a sequence of prompts as a list.

    Raises:
        ConfigError: there is none, or one is not a text.
    """
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ConfigError(f"prompt must be a text or a list of texts, got {shown(value)}.")
    if not prompts:
        raise ConfigError("prompt is empty; give at least one prompt.")
    return list(prompts)


def labels_of(key: str, labels: Any, num_classes: int) -> list[int]:
    """One label or a sequence of labels as a list; ``key`` is the name of the argument.

    Raises:
        ConfigError: there is none, or one is not an integer in 0..num_classes − 1.
    """
    # Tensors and arrays become numbers or lists of Python.
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    if isinstance(values, int):
        values = [values]
    if isinstance(values, (str, Mapping, Set)) or not isinstance(values, Iterable):
        raise ConfigError(f"{key} must be a label or a list of labels, got {shown(labels)}.")
    values = list(values)
    if not values:
        raise ConfigError(f"{key} is empty; set at least one label.")
    checked = [_index(value) for value in values]
    for number, value in zip(checked, values, strict=True):
        if number is None or not 0 <= number < num_classes:
            raise ConfigError(f"{key} must be classes of the model, 0 to {num_classes - 1}, got {value}.")
    return [number for number in checked if number is not None]


def seed_of(seed: Any, generator: Any) -> int:
    """The seed of a call: ``seed``, the initial seed of ``generator``, or 0."""
    if generator is None:
        number = 0 if seed is None else integer("seed", seed, 0)
        if number >= 2**63:
            raise ConfigError(f"seed must be < 2^63, got {number}.")
        return number
    if seed is not None:
        raise ConfigError("seed and generator are mutually exclusive; set only one of them.")
    if not isinstance(generator, torch.Generator):
        raise ConfigError(
            f"generator must be a single torch.Generator, got {shown(generator)}; images differ by index."
        )
    return generator.initial_seed()


def name_or_node(key: str, value: Any, kind: type) -> str | dict[str, Any] | None:
    """The name of a member, or the checked node of a part; None for an object of the class.

    Raises:
        ConfigError: the value is something else, or the node does not fit its class.
    """
    if isinstance(value, kind):
        return None
    if isinstance(value, str):
        return member(key, value)
    if isinstance(value, DictConfig):
        try:
            value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{key}: {str(error).splitlines()[0]}.") from error
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a name, a node or a {kind.__name__}, got {shown(value)}.")
    node = dict(value)
    if node.get("_target_") is None:
        raise ConfigError(f"{key} must be a node with a _target_, got {node}.")
    check_node(key, node)
    return node


def overrides_of(overrides: Any, named: Sequence[str]) -> list[str]:
    """Hydra overrides of the parts that were given by name.

    Raises:
        ConfigError: an override changes anything else, so it would have no effect.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides must be a list, got {shown(overrides)}; write [{shown(overrides)}].")
    if not isinstance(overrides, (list, tuple)) or not all(isinstance(item, str) for item in overrides):
        raise ConfigError(f"overrides must be a list of texts, got {shown(overrides)}.")
    for override in overrides:
        if not override.isprintable():
            raise ConfigError(f"overrides must be of one line each, got {shown(override)}.")
        group = group_of(str(override))
        if group not in _GROUPS:
            raise ConfigError(f"overrides may only change sampler and cache, got {shown(override)}.")
        if group not in named:
            raise ConfigError(
                f"overrides change parts that are given by name, but {group} is not: {shown(override)}."
            )
    return [str(override) for override in overrides]


def masks_of(name: str, value: Any) -> Tensor:
    """Masks as float32 [M, C, H, W] in 0..1: as :func:`pixels_of`, and integers may be 0 or 1."""
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(each, Image.Image) and is_transparent(each):
            raise ConfigError(
                f"{name} is transparent in places, but only black and white count; remove its alpha channel."
            )
    masks = pixels_of(name, value)
    # As one of 0..255, a largest value of 1 would be black.
    return masks * 255 if abs(float(masks.max()) * 255 - 1) < 1e-3 else masks


def pixels_of(name: str, value: Any) -> Tensor:
    """One picture or several as float32 [N, C, H, W] in 0..1, on the CPU.

    Args:
        name: name of the argument, for messages.
        value: a PIL image, an array [H, W] or [H, W, C], a tensor [C, H, W] or [H, W]; a list of them, or an
            array or tensor with one more dimension. Integers are 0..255, floats 0..1, booleans 0 or 1.

    Raises:
        ConfigError: the value is something else, or the pictures have different sizes.
    """
    values = list(value) if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 4 else [value]
    pictures = [_picture(name, each) for each in values]
    if not pictures or any(picture.shape != pictures[0].shape for picture in pictures):
        sizes = sorted({str(list(picture.shape)) for picture in pictures})
        raise ConfigError(f"{name} must be pictures of one size, got {' and '.join(sizes) or 'none'}.")
    return torch.stack(pictures)


def _picture(name: str, value: Any) -> Tensor:
    """One picture as float32 [C, H, W] in 0..1."""
    channels_last = not isinstance(value, Tensor)
    if isinstance(value, Image.Image):
        if value.mode not in _PIL_MODES:
            raise ConfigError(f"{name} must have 8 bits per channel, got a PIL image of mode {value.mode}.")
        value = np.array(value.convert("L" if value.mode in ("1", "L") else "RGB"))
    try:
        pixels = torch.as_tensor(value, dtype=None, device="cpu").detach()  # its dtype says its range
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"an array of {value.dtype}" if hasattr(value, "dtype") else shown(value)
        raise ConfigError(f"{name} must be an image, an array or a tensor, got {got}.") from error
    if pixels.layout != torch.strided or pixels.is_complex() or pixels.is_quantized:
        raise ConfigError(f"{name} must have real numbers, got {pixels.dtype} ({pixels.layout}).")
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and channels_last:
        pixels = pixels.permute(2, 0, 1)
    if pixels.ndim != 3 or len(pixels) not in (1, 3) or not pixels.numel():
        raise ConfigError(
            f"{name} must be one image with 1 or 3 channels, or a list, got the shape {list(pixels.shape)}."
        )
    scale = 1 if pixels.dtype == torch.bool or pixels.is_floating_point() else 255
    pixels = pixels.float() / scale
    if not torch.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise ConfigError(f"{name} must be integers in 0..255 or numbers in 0..1, without NaN.")
    return pixels


def check_callbacks(callback: Any, observer: Any, kind: type) -> None:
    """Refuse what cannot be called or observe."""
    if callback is not None and not callable(callback):
        raise ConfigError(f"callback_on_step_end must be a function, got {shown(callback)}.")
    if observer is not None and not isinstance(observer, kind):
        raise ConfigError(f"observer must be an Observer, got {shown(observer)}.")


def check_progress(settings: Mapping[str, Any]) -> None:
    """Refuse settings that rich's progress bar does not have."""
    from rich.progress import Progress

    known = [name for name in inspect.signature(Progress).parameters if name != "columns"]
    for name in settings:
        if name not in known:
            raise ConfigError(f"the progress bar has no setting {name}; choose one of {', '.join(known)}.")
    try:
        Progress(**settings)
    except Exception as error:  # rich does not check its arguments
        raise ConfigError(f"the progress bar cannot be set: {str(error) or shown(settings)}.") from error
    switch("disable", settings.get("disable", False))


def _index(value: Any) -> int | None:
    """The value as an integer; None if it is none. A bool is not taken as one."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    return operator.index(value)
