"""Content behind the names in a config: files, and the source of the user's own classes."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mar_accel.config.check import locate
from mar_accel.utils.fingerprints import file_fingerprint
from mar_accel.weights.loading import files_read
from mar_accel.weights.sources import EMBEDDED_MODELS, embedded_folder

# Folders of libraries, which count by their version.
_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def content_of(value: str | None, key: str | None = None) -> str | None:
    """A digest of the file or folder that a value names; None if there is no such file.

    Of a folder, only the files that are read count, so that others in it may change.

    Args:
        value: a value from a config, such as a path, a Hub id or another name.
        key: MODEL_KEY or AUTOENCODER_KEY for a source of weights, which may be a folder or embedded.
            None: only a file counts.
    """
    if value is None:
        return None
    # As in mar_accel.weights.sources, ./digits is a folder of the user.
    path = embedded_folder(value) if key and value in EMBEDDED_MODELS else Path(value).expanduser()
    # Unlike pathlib, os.path takes a name that is too long for one that is not there.
    if os.path.isfile(path):
        return f"{path.name}:{_content(path)}"
    files = files_read(path, key) if key and os.path.isdir(path) else []
    return "+".join(f"{file.relative_to(path)}:{_content(file)}" for file in files) or None


def _content(file: Path) -> str:
    status = file.stat()
    return _digest(file, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _digest(file: Path, size: int, mtime_ns: int) -> str:
    """The digest of a file; it is cached, since every run of a sweep needs that of a large checkpoint."""
    return file_fingerprint(file)


def sources_of(*nodes: Mapping[str, Any] | None) -> dict[str, str]:
    """Digests of the source files of every ``_target_`` outside this package; of libraries, the version.

    Classes of this package do not count, nor do the libraries that they build on: a run may be continued on a
    machine with another version of torch. The sources include the modules of base classes, and the user's own
    modules that these import anywhere. A data file that a class reads is not known. Name it in an argument,
    or raise a version in the source.
    """
    found: dict[str, str] = {}
    for node in nodes:
        for target in _targets(node):
            loaded = locate("", target)
            if getattr(loaded, "__module__", "").partition(".")[0] == "mar_accel":
                continue
            names = {base.__module__ for base in getattr(loaded, "__mro__", (loaded,))}
            found |= _library_versions(names) | _own_sources(names)
    return found


def _library_versions(modules: Iterable[str]) -> dict[str, str]:
    tops = {name.partition(".")[0] for name in modules} - {"mar_accel", *sys.stdlib_module_names}
    return {name: version for top in sorted(tops) for name, version in _versions(top).items()}


@functools.cache
def _versions(top: str) -> dict[str, str]:
    """Versions of the distributions that a module belongs to, such as scikit-learn for sklearn."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return {top: _without_build(importlib.metadata.version(top))}
    names = sorted({*importlib.metadata.packages_distributions().get(top, ())})
    return {name: _without_build(importlib.metadata.version(name)) for name in names}


def _without_build(version: str) -> str:
    """A version without the build: 2.13.0+cpu and 2.13.0+cu130 compute the same."""
    return version.partition("+")[0]


def _own_sources(modules: Iterable[str]) -> dict[str, str]:
    """Digests of the user's own modules among these, and of those that they import."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = _own_file(name) if name not in found else None
        if file is not None:
            found[name] = _content(file)
            status = file.stat()
            waiting += _imports(name, file, status.st_size, status.st_mtime_ns)
    return found


@functools.lru_cache
def _imports(name: str, file: Path, size: int, mtime_ns: int) -> tuple[str, ...]:
    """Names of everything that a module may import, inside functions, too; most are no modules."""
    names: list[str] = []
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _own_file(name: str) -> Path | None:
    """The source file of a module of the user; None for libraries, this package and what is no module."""
    top = name.partition(".")[0]
    if top in ("", "mar_accel", *sys.stdlib_module_names):
        return None
    # To find a submodule, Python imports its package. That is only done for packages of the user.
    if name != top and _own_file(top) is None:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    file = Path(spec.origin) if spec is not None and spec.origin is not None else None
    if file is None or file.suffix != ".py":
        return None
    # A module that was put beside the libraries without a version counts by its content.
    is_library = any(map(file.is_relative_to, _LIBRARIES)) and _versions(top)
    return None if is_library else file


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
