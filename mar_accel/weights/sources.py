"""Where weights are: a file, a folder, a Hub repository, an embedded model, or nowhere (random)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mar_accel.errors import WeightsError

RANDOM = "random"
CHOICES = "a file (.pth, .safetensors), a folder, a Hub repository id, an embedded model (digits) or random"
EMBEDDED_MODELS = ("digits",)
# owner/name, with a revision behind an @.
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


def embedded_folder(name: str) -> Path:
    """Folder of an embedded model inside the package."""
    return Path(__file__).resolve().parent.parent / "assets" / name


def locate(weights: str | None, key: str, hub_files: Sequence[str]) -> Path | None:
    """The file or folder that a value of ``model.weights`` names; None for random weights.

    Args:
        weights: a file, a folder, a Hub repository id (``owner/name`` or ``owner/name@revision``), the name
            of an embedded model, or "random". An existing path goes before a repository of the same name; a
            folder called as an embedded model is reached by ``./name``.
        key: config key (or argument) that holds the value, for messages.
        hub_files: files to fetch of a Hub repository, as far as it has them.

    Raises:
        WeightsError: nothing was given, or what was given does not exist or cannot be fetched.
    """
    if weights is None:
        raise WeightsError(f"{key} is not set; give {CHOICES}.")
    weights = str(weights)
    if weights == RANDOM:
        return None
    if weights in EMBEDDED_MODELS:
        return _embedded(weights, key)
    path = Path(weights).expanduser()
    if path.exists():
        return path
    match = HUB_ID.fullmatch(weights)
    if match and not weights.endswith(FILE_SUFFIXES) and not weights.startswith("."):
        return _fetch(match["repo"], match["revision"], key, hub_files)
    raise WeightsError(f"{key}={weights} does not exist; give {CHOICES}.")


def _embedded(name: str, key: str) -> Path:
    folder = embedded_folder(name)
    if not (folder / "model.safetensors").is_file():
        raise WeightsError(
            f"{key}={name} names the embedded model, but this copy of the package lacks "
            f"assets/{name}/model.safetensors; reinstall it, or use {key}=random."
        )
    return folder


def _fetch(repo: str, revision: str | None, key: str, hub_files: Sequence[str]) -> Path:
    """Folder of a Hub repository in the local cache, downloaded where needed."""
    from huggingface_hub import errors as hub

    wanted = f"{key}={repo}" + (f"@{revision}" if revision else "")
    try:
        found = [_fetch_file(repo, revision, file) for file in hub_files]
    except hub.RevisionNotFoundError as error:
        raise WeightsError(f"{wanted}: the Hub repository has no such revision; check the name.") from error
    except hub.RepositoryNotFoundError as error:
        # Also what the Hub answers for private repositories, and (its subclass) for gated ones.
        raise WeightsError(
            f"{wanted} is neither a local path nor a Hub repository that you can read; check the name, or "
            "log in to the Hub."
        ) from error
    except Exception as error:  # the library lets its HTTP client's own errors through
        reason = type(error).__name__
        raise WeightsError(
            f"{wanted} is no local path and cannot be fetched from the Hub ({reason}); check the connection, "
            "or give a local folder."
        ) from error
    folders = [folder for folder in found if folder is not None]
    if not folders:
        raise WeightsError(f"{wanted}: the Hub repository has none of {', '.join(hub_files)}; give another.")
    return folders[0]


def _fetch_file(repo: str, revision: str | None, file: str) -> Path | None:
    """The cached folder of a repository, with ``file`` in it; None where the repository lacks the file."""
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    # The variable is read here and not when the library is imported, so that notebooks can set it.
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        path = hf_hub_download(repo, file, revision=revision, endpoint=endpoint, library_name="mar_accel")
    except hub.LocalEntryNotFoundError:
        raise  # no connection, and not in the cache
    except hub.EntryNotFoundError:
        return None
    return Path(path).parents[file.count("/")]
