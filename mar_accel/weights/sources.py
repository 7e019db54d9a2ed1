"""Sources of weights: a file, a folder, a Hub repository, an embedded model, or random."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mar_accel.errors import WeightsError

RANDOM = "random"
CHOICES = "a file (.pth, .safetensors), a folder, a Hub repository id, an embedded model (digits) or random"
EMBEDDED_MODELS = ("digits",)
# owner/name, optionally followed by @revision.
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


def embedded_folder(name: str) -> Path:
    """Folder of an embedded model inside the package."""
    return Path(__file__).resolve().parent.parent / "assets" / name


def locate(weights: str | None, key: str, hub_files: Sequence[str]) -> Path | None:
    """The file or folder that a value of ``model.weights`` names; None for random weights.

    Args:
        weights: a file, a folder, a Hub repository id, the name of an embedded model, or "random".
            A repository id is ``owner/name`` or ``owner/name@revision``.
            An existing path takes precedence over a repository of the same name.
            Use ``./name`` for a folder that has the name of an embedded model.
        key: config key (or argument) that holds the value, for messages.
        hub_files: files to download from a Hub repository; missing ones are skipped.

    Raises:
        WeightsError: the value is missing, does not exist or cannot be downloaded.

    Example:
        >>> locate("digits", "model.weights", [])  # folder inside the package
    """
    if weights is None:
        raise WeightsError(f"{key} is not set; use {CHOICES}.")
    weights = str(weights)
    if weights == RANDOM:
        return None
    if weights in EMBEDDED_MODELS:
        return _embedded(weights, key)
    path = Path(weights).expanduser()
    if path.is_file() or path.is_dir():
        return path
    if path.exists():
        raise WeightsError(
            f"{key}={weights} is a pipe, a device or a socket, which may never end; use {CHOICES}."
        )
    match = HUB_ID.fullmatch(weights)
    if match and not weights.endswith(FILE_SUFFIXES) and not weights.startswith("."):
        return _fetch(match["repo"], match["revision"], key, hub_files)
    raise WeightsError(f"{key}={weights} does not exist; use {CHOICES}.")


def _embedded(name: str, key: str) -> Path:
    folder = embedded_folder(name)
    if not (folder / "model.safetensors").is_file():
        raise WeightsError(
            f"{key}={name} names the embedded model, but this copy of the package lacks "
            f"assets/{name}/model.safetensors; reinstall it, or use {key}=random."
        )
    return folder


def _fetch(repo: str, revision: str | None, key: str, hub_files: Sequence[str]) -> Path:
    """Folder of a Hub repository in the local cache; missing files are downloaded."""
    from huggingface_hub import errors as hub

    wanted = f"{key}={repo}" + (f"@{revision}" if revision else "")
    try:
        found = [_fetch_file(repo, revision, file) for file in hub_files]
    except hub.RevisionNotFoundError as error:
        raise WeightsError(f"{wanted}: the Hub repository lacks this revision; check its name.") from error
    except hub.RepositoryNotFoundError as error:
        # The Hub gives the same answer for private repositories, and a subclass of it for gated ones.
        raise WeightsError(
            f"{wanted} is neither a local path nor a Hub repository that you can read; check the name, or "
            "log in to the Hub."
        ) from error
    except Exception as error:  # the library does not wrap the errors of its HTTP client
        reason = type(error).__name__
        raise WeightsError(
            f"{wanted} is not a local path and cannot be downloaded from the Hub ({reason}); check the "
            "connection, or use a local folder."
        ) from error
    folders = [folder for folder in found if folder is not None]
    if not folders:
        raise WeightsError(
            f"{wanted}: the Hub repository has none of {', '.join(hub_files)}; use another repository."
        )
    return folders[0]


def _fetch_file(repo: str, revision: str | None, file: str) -> Path | None:
    """The cached folder of a repository that contains ``file``; None if the repository lacks the file."""
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    # The variable is read at each call and not at import, so that notebooks can set it.
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        path = hf_hub_download(repo, file, revision=revision, endpoint=endpoint, library_name="mar_accel")
    except hub.LocalEntryNotFoundError:
        raise  # no connection, and not in the cache
    except hub.EntryNotFoundError:
        return None
    return Path(path).parents[file.count("/")]
