"""Sources of weights: a file, a folder, a Hub repository, an embedded model, or random."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mar_accel.errors import WeightsError
from mar_accel.weights.hub_files import HUB_FILE, fetch_hub_file, fetch_hub_folder

RANDOM = "random"
CHOICES = (
    "a file (.pth, .safetensors), a folder, a Hub repository id, an embedded model (digits, scenes) or random"
)
EMBEDDED_MODELS = ("digits", "scenes")
# owner/name, optionally followed by @revision.
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


def embedded_folder(name: str) -> Path:
    """Folder of an embedded model inside the package."""
    return Path(__file__).resolve().parent.parent / "assets" / name


def locate(weights: str | None, key: str, hub_files: Sequence[str], choices: str = CHOICES) -> Path | None:
    """The file or folder that a value of ``model.weights`` names; None for random weights.

    Args:
        weights: a file, a folder, a Hub repository id, the name of an embedded model, or "random".
            A repository id is ``owner/name`` or ``owner/name@revision``. One file of a repository is
            ``owner/name:file`` or ``owner/name:file@revision``.
            An existing path takes precedence over a repository of the same name.
            Use ``./name`` for a folder that has the name of an embedded model.
        key: config key (or argument) that holds the value, for messages.
        hub_files: files to download from a Hub repository; missing ones are skipped.
        choices: what the value may be, for messages.

    Raises:
        WeightsError: the value is missing, does not exist or cannot be downloaded.

    Example:
        >>> locate("digits", "model.weights", [])  # folder inside the package
    """
    if weights is None:
        raise WeightsError(f"{key} is not set; use {choices}.")
    weights = str(weights)
    if weights == RANDOM:
        return None
    if weights in EMBEDDED_MODELS:
        return _embedded(weights, key)
    path = Path(weights).expanduser()
    # Unlike pathlib, os.path takes a name that is too long for one that is not there.
    if os.path.isfile(path) or os.path.isdir(path):
        return path
    if os.path.exists(path):
        raise WeightsError(
            f"{key}={weights} is a pipe, a device or a socket, which may never end; use {choices}."
        )
    match = HUB_FILE.fullmatch(weights)
    if match:
        return fetch_hub_file(match["repo"], match["file"], match["revision"], key)
    match = HUB_ID.fullmatch(weights)
    if match and not weights.endswith(FILE_SUFFIXES) and not weights.startswith("."):
        return fetch_hub_folder(match["repo"], match["revision"], key, hub_files)
    raise WeightsError(f"{key}={weights} does not exist; use {choices}.")


def _embedded(name: str, key: str) -> Path:
    folder = embedded_folder(name)
    if not (folder / "model.safetensors").is_file():
        raise WeightsError(
            f"{key}={name} names the embedded model, but this copy of the package lacks "
            f"assets/{name}/model.safetensors; reinstall it, or use {key}=random."
        )
    return folder
