"""Check config values against types: settings, and the arguments of classes named by ``_target_``.

pydantic checks the values. Its errors are turned into one sentence with the config key.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, TypeVar, Union, cast

from mar_accel.errors import ConfigError, MarAccelError

T = TypeVar("T")
_PACKAGE = "mar_accel."

# Maps pydantic's error types to what the value must be. Numbers come from the context of the error.
_MUST_BE = {
    "int": "an integer",
    "float": "a number",
    "finite_number": "finite",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "sequence": "a list",
    "dict": "a group of settings",
    "mapping": "a group of settings",
    "dataclass": "a group of settings",
    "none": "null",
    "greater_than_equal": "≥ {ge}",
    "greater_than": "> {gt}",
    "less_than_equal": "≤ {le}",
    "less_than": "< {lt}",
    "literal_error": "{expected}",
    "string_too_short": "a text that is not empty",
}


# First letters of the words for a range.
_RANGES = "≥>≤<"


def check_settings(cls: type[T], values: Mapping[str, Any], key: str = "") -> T:
    """Build an object of a settings class from plain values.

    Args:
        cls: a class decorated with :func:`mar_accel.config.settings.checked`.
        values: JSON values by name.
        key: config key of the values; "" for a whole config.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or range.
    """
    from pydantic import ValidationError

    try:
        checked: T = _adapter(cast("Any", cls)).validate_json(_as_json(values, key))
        return checked
    except ValidationError as error:
        raise ConfigError(_sentence(error.errors(include_url=False), values, key, cls)) from None


@cache
def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _as_json(values: Mapping[str, Any], key: str) -> str:
    try:
        return json.dumps(values)
    except TypeError as error:
        raise ConfigError(f"{key or 'the config'} has a value that JSON cannot store: {error}.") from None


# -- arguments of classes ----------------------------------------------------------------------------------


def locate(key: str, target: Any) -> Any:
    """The class or function with the given import path.

    Args:
        key: config key of the node, for messages.
        target: the import path, such as "my_module.MyClass".

    Raises:
        ConfigError: the path does not exist, or importing it fails. The message gives the cause.
    """
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{key}._target_ must be an import path such as my_module.MyClass, got {target!r}.")
    # Python keeps a listing of each folder, and misses a module that was written within the clock tick of it.
    importlib.invalidate_caches()
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                continue
            raise _import_failed(key, target, error) from error
        except MarAccelError:
            raise
        except Exception as error:
            raise _import_failed(key, target, error) from error
        for part in parts[length:]:
            found = getattr(found, part, None)
        if found is not None:
            return found
        raise ConfigError(
            f"{key}._target_={target} does not exist: {name} has no {'.'.join(parts[length:])}."
        )
    raise ConfigError(
        f"{key}._target_={target} does not exist: there is no module {parts[0]}; use an importable class."
    )


def _import_failed(key: str, target: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{key}._target_={target} cannot be imported: {type(error).__name__}: {error}{place_of(error)}; "
        "fix its module."
    )


def place_of(error: BaseException) -> str:
    """File and line that raised an error, in brackets after a space; "" where Python's import raised it."""
    if error.__traceback__ is None:
        return ""
    last = inspect.getinnerframes(error.__traceback__)[-1]
    return "" if "importlib" in last.filename else f" ({last.filename}, line {last.lineno})"


def check_node(key: str, node: Any, given: Sequence[str] = ()) -> None:
    """Check a node with a ``_target_``, and those below it, against the signatures of their classes.

    Args:
        given: arguments that a command adds itself.

    Raises:
        ConfigError: names the key and what is wrong.
    """
    if not isinstance(node, dict) or node.get("_target_") is None:
        return
    target = locate(key, node["_target_"])
    arguments = {name: value for name, value in node.items() if not str(name).startswith("_")}
    # The node is checked before its parts, so that an error names the key that the user has set.
    check_arguments(key, arguments, target, given)
    for name, value in arguments.items():
        check_node(f"{key}.{name}", value)


def nodes_below(key: str, node: Any) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Each node with a ``_target_`` at or below a key: its key, its values and its class."""
    if isinstance(node, dict) and node.get("_target_") is not None:
        yield key, node, locate(key, node["_target_"])
        for name, value in node.items():
            yield from nodes_below(f"{key}.{name}", value)


def model_defaults_below(key: str, node: Any, unset: str = "") -> Iterator[tuple[str, str, Any, Any]]:
    """Each setting at or below a node that may come from the model.

    Yields its key, the name in ``model.sampling``, the fallback, and the value in the node, else ``unset``.
    """
    for where, values, target in nodes_below(key, node):
        for name, (default, fallback) in getattr(target, "model_defaults", {}).items():
            yield f"{where}.{name}", default, fallback, values.get(name, unset)


def check_arguments(key: str, arguments: Mapping[str, Any], target: Any, given: Sequence[str] = ()) -> None:
    """Check named arguments against the signature of a class or function.

    If its annotations cannot be read, nothing is checked here, and the class must check its arguments.
    """
    from pydantic import ValidationError

    for name, value in arguments.items():
        if value == "???":
            raise ConfigError(f"{key}.{name} has no default; give it a value.")
    model = _signature_model(target, tuple(given))
    if model is None:
        return
    try:
        model.model_validate_json(_as_json(arguments, key))
    except ValidationError as error:
        raise ConfigError(_sentence(error.errors(include_url=False), arguments, key, target)) from None


@lru_cache
def _signature_model(target: Any, given: tuple[str, ...]) -> Any:
    """A pydantic model of a signature; None if the signature cannot be read."""
    from pydantic import ConfigDict, create_model

    try:
        parameters = inspect.signature(target).parameters
        hints = _hints(target.__init__ if inspect.isclass(target) else target)
    except (TypeError, ValueError):
        return None
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    fields: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or name in given:
            continue
        hint = _plain_hint(hints.get(name, Any))
        fields[name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
    extra: Any = "allow" if takes_any else "forbid"
    config = ConfigDict(strict=True, extra=extra, allow_inf_nan=False, protected_namespaces=())
    try:
        return create_model("Arguments", __config__=config, **fields)
    except Exception:  # an annotation or a name that pydantic does not support
        return None


def _hints(function: Any) -> dict[str, Any]:
    """The annotations of a function; Any for one whose names are only there for type checkers."""
    found: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            names = getattr(inspect.unwrap(function), "__globals__", {})
            found |= typing.get_type_hints(one, globalns=names, include_extras=True)
        except (NameError, TypeError, AttributeError):
            found[name] = Any
    return found


def _plain_hint(hint: Any) -> Any:
    """The annotation as config values: classes of this package become dicts, other classes become Any."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return Union[tuple(_plain_hint(argument) for argument in arguments)]  # noqa: UP007
    if origin is typing.Annotated:
        return hint
    if origin in (list, tuple, Sequence, Iterable):
        inner = [_plain_hint(argument) for argument in arguments if argument is not Ellipsis]
        return list[tuple(inner)] if inner else list  # type: ignore[misc]
    if origin in (dict, Mapping):
        return dict[str, Any]
    if hint in (int, float, bool, str, type(None), Any, list, tuple, dict) or origin is typing.Literal:
        return hint
    if inspect.isclass(hint) and hint.__module__.startswith(_PACKAGE):
        return dict[str, Any]
    return Any


# -- sentences ---------------------------------------------------------------------------------------------


def _sentence(errors: Sequence[Any], values: Any, key: str, target: Any) -> str:
    """One sentence about the first wrong key."""
    paths = [_path(error["loc"], values) for error in errors]
    first = paths[0]
    own = [error for error, path in zip(errors, paths, strict=True) if path == first]
    where = _dotted(key, first)
    # For a union with lists, the error about a single item is more helpful than errors about other types.
    items = [e for e in own if len(e["loc"]) > len(first) + 1 and isinstance(e["loc"][-1], int)]
    if items:
        items.sort(key=lambda item: _must_be(item)[0] not in _RANGES)
        numbers = [part for part in items[0]["loc"][len(first) :] if isinstance(part, int)]
        own, where = items[:1], _dotted(where, numbers)
    error = own[0]
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return unknown_key(where, _known(target, first))
    if error["type"] in ("missing", "missing_argument"):
        return f"{where} is not set; give it a value."
    options = list(dict.fromkeys(_must_be(error) for error in own))
    ranges = [option for option in options if option[0] in _RANGES or option == "finite"]
    got = shown(error["input"])
    return f"{where} must be {' or '.join(ranges or options)}, got {got}."


def _dotted(key: str, path: Sequence[Any]) -> str:
    """A key below another, as it is written: ``table.only[0]``."""
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def _path(loc: Sequence[Any], values: Any) -> tuple[Any, ...]:
    """The config keys in the location of an error, without the union members that pydantic adds."""
    path: list[Any] = []
    for part in loc:
        if (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list) and isinstance(part, int) and part < len(values)
        ):
            values = values[part]
        elif path != list(loc[:-1]) or not isinstance(values, Mapping):
            break
        path.append(part)
    return tuple(path)


def _must_be(error: Any) -> str:
    kind = error["type"]
    for suffix in ("_type", "_parsing", "_from_float", "_required", "_exact_type"):
        kind = kind.removesuffix(suffix)
    text = _MUST_BE.get(kind, error["msg"])
    # A limit that is a whole number is shown as one, also where it is stored as 1.0.
    context = {
        name: f"{value:g}" if isinstance(value, float) else value
        for name, value in error.get("ctx", {}).items()
    }
    return text.format(**context).replace("'", "")


def shown(value: Any) -> str:
    """A value of a config in a message, cut to one line."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def known_arguments(target: Any) -> set[str] | None:
    """Names of the arguments that a class or function accepts; None if it accepts any."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return set(parameters)


def _known(target: Any, path: Sequence[Any]) -> list[str]:
    """Names that are valid at the place of an unknown name."""
    for part in path[:-1]:
        hints = typing.get_type_hints(target) if inspect.isclass(target) else {}
        target = hints.get(str(part), target)
    try:
        return [name for name in inspect.signature(target).parameters if name not in ("args", "kwargs")]
    except (TypeError, ValueError):
        return []


def unknown_key(where: str, known: Sequence[str]) -> str:
    """The message for an unknown key, with the most similar known key."""
    above, dot, name = where.rpartition(".")
    near = nearest(name, known)
    if near:
        return f"{where} is not a key of the config; did you mean {above}{dot}{near[0]}?"
    there = f"{above} takes {', '.join(known)}" if above and known else "see all keys with --cfg job"
    return f"{where} is not a key of the config; {there}."


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known name that is most similar to a mistyped one, in a list; empty if none is."""
    return difflib.get_close_matches(name, [other for other in known if other != name], n=1, cutoff=0.7)
