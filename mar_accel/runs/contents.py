"""Content behind the names in a config: files, and the source of the user's own classes."""

from __future__ import annotations

import functools
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mar_accel.config.check import locate
from mar_accel.metrics.features import file_fingerprint
from mar_accel.weights.loading import files_read
from mar_accel.weights.sources import EMBEDDED_MODELS, embedded_folder

# Folders of libraries. Their content is not hashed, since their versions are in every record.
_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_PACKAGE = str(Path(__file__).resolve().parents[1])


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
    if path.is_file():
        return f"{path.name}:{_content(path)}"
    files = files_read(path, key) if key and path.is_dir() else []
    return "+".join(f"{file.relative_to(path)}:{_content(file)}" for file in files) or None


def size_and_time(value: str | None) -> list[list[Any]] | None:
    """Names, sizes and modification times of the files that a value names.

    This is a cheap substitute for a digest, for data of many gigabytes.
    """
    if value is None:
        return None
    files = _files(Path(value).expanduser())
    return [[name, file.stat().st_size, file.stat().st_mtime_ns] for name, file in files] or None


def _files(root: Path) -> list[tuple[str, Path]]:
    """Names and paths of a file, or of all files below a folder; text about them (.md) does not count."""
    if root.is_file():
        return [(root.name, root)]
    files = [file for file in sorted(root.rglob("*")) if file.is_file() and file.suffix != ".md"]
    return [(str(file.relative_to(root)), file) for file in files]


def _content(file: Path) -> str:
    status = file.stat()
    return _digest(file, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _digest(file: Path, size: int, mtime_ns: int) -> str:
    """The digest of a file; it is cached, since every run of a sweep needs that of a large checkpoint."""
    return file_fingerprint(file)


def sources_of(*nodes: Mapping[str, Any] | None) -> dict[str, str]:
    """Digests of the source files of every ``_target_`` outside this package and libraries.

    They include the modules of base classes, and the user's own modules that these import.
    """
    files: dict[str, str] = {}
    for node in nodes:
        for target in _targets(node):
            found = locate("", target)
            modules = [sys.modules.get(base.__module__) for base in getattr(found, "__mro__", (found,))]
            for module in _with_imports([module for module in modules if module is not None]):
                files[module.__name__] = _content(Path(str(module.__file__)))
    return files


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _with_imports(modules: list[ModuleType]) -> list[ModuleType]:
    """The user's own modules among these, and those that they import."""
    found: dict[str, ModuleType] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module.__name__ in found or not _is_own(module):
            continue
        found[module.__name__] = module
        for value in vars(module).values():
            imported = value if isinstance(value, ModuleType) else inspect.getmodule(value)
            if imported is not None:
                waiting.append(imported)
    return list(found.values())


def _is_own(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and not file.startswith((*_LIBRARIES, _PACKAGE)) and Path(file).is_file()
