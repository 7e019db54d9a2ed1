"""Checks of parts before they are used: their class, their methods, and the words about what they return."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from mar_accel.errors import ConfigError


def check_part(key: str, part: object, kind: type, optional: bool = False) -> None:
    """Reject a part of another class, and methods with other arguments than those of this package.

    Args:
        key: config key of the part, such as "sampler.order".
        part: the object.
        kind: its base class, or a runtime protocol.
        optional: whether None is also valid.

    Raises:
        ConfigError: names the key, the class and the method.

    Example:
        >>> check_part("sampler.order", HaltonOrder(), Order)
    """
    if optional and part is None:
        return
    if isinstance(part, type) or not isinstance(part, kind):
        raise ConfigError(f"{key} must be {with_article(kind.__name__)}{_members(kind)}, got {got(part)}.")
    for name, method in _methods(type(part), kind).items():
        # The names stand for the values that the method will be called with.
        required, defaults = _arguments(method)
        own: Any = getattr(part, name)
        try:
            inspect.signature(own).bind(*required, **defaults)
        except ValueError:  # a signature that Python does not know
            continue
        except TypeError as error:
            taken = ", ".join(inspect.signature(own).parameters)
            raise ConfigError(
                f"{key} ({type(part).__name__}): {name} must take ({', '.join([*required, *defaults])}), "
                f"but it takes ({taken}): {error}."
            ) from None


def not_defined(key: str, part: object, method: str) -> ConfigError:
    """The error for a class of one's own that lacks the method that it has to define."""
    return ConfigError(f"{key} ({type(part).__name__}): the class must define the method {method}.")


def wrong_return(
    key: str, part: object, method: str, must: str, value: object, where: str = ""
) -> ConfigError:
    """The error for a method that returns something else than it must.

    Args:
        key: config key of the part.
        part: the object.
        method: name of the method.
        must: what it must return, such as "a list of integers".
        value: what it returned.
        where: place of the value, such as " at AR step 3".
    """
    return ConfigError(
        f"{key} ({type(part).__name__}): {method} must return {must}, got {got(value)}{where}."
    )


def counts_of(key: str, part: object, method: str, values: object, each: str) -> list[int]:
    """The integers ≥ 1 that a method has returned, as a list of int.

    Args:
        each: what one value stands for, such as "AR step".

    Raises:
        ConfigError: ``values`` is not a list, or a value is not an integer ≥ 1.
    """
    must = "a list of integers ≥ 1"
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise wrong_return(key, part, method, must, values)
    for index, value in enumerate(values):
        if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
            raise wrong_return(key, part, method, must, value, f" at {each} {index}")
    return [int(value) for value in values]


def is_flag(value: object) -> bool:
    """Whether a value is True or False, of Python or NumPy."""
    return isinstance(value, bool | np.bool_)


def got(value: object) -> str:
    """A value in an error: dtype and shape of a tensor, other values with their type."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {list(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__} instead of an object of it"
    text = repr(value)
    text = text if len(text) <= 60 and "\n" not in text and " at 0x" not in text else "an object"
    return text if value is None or type(value) in (int, float, bool) else f"{text} ({type(value).__name__})"


def _methods(*classes: type) -> dict[str, Any]:
    """The public methods that classes and their bases have in this package, by name."""
    found: dict[str, Any] = {}
    for cls in (base for each in classes for base in reversed(each.__mro__)):
        if cls.__module__.startswith("mar_accel."):
            found |= {
                name: value
                for name, value in vars(cls).items()
                if inspect.isfunction(value) and not name.startswith("_")
            }
    return found


def _arguments(method: Any) -> tuple[list[str], dict[str, Any]]:
    """Names of the arguments without a default, and the arguments with one; both without self."""
    _, *parameters = inspect.signature(method).parameters.values()
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    return required, {p.name: p.default for p in parameters if p.default is not p.empty}


def _members(kind: type) -> str:
    """What an object of a protocol must have; "" for a class."""
    if not getattr(kind, "_is_protocol", False):
        return ""
    names = sorted(set(_methods(kind)) | set(getattr(kind, "__annotations__", {})))
    return f" (it must have {' and '.join(names)})"


def with_article(name: str) -> str:
    """The name of a class after "a" or "an"."""
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
