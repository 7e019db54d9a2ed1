"""Files of Hub repositories: announced, downloaded with resume, and compared with the Hub's own hash."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mar_accel.errors import WeightsError
from mar_accel.weights.hub_download import HashError, download_blob

# owner/name:path/to/file, optionally followed by @revision.
HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>[\w.-][\w./-]*)(@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
# The file system refuses to write: no room, no permission, no folder.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def fetch_hub_file(repo: str, file: str, revision: str | None, key: str) -> Path:
    """The file in the local cache; downloaded if it is not there.

    A cached file is used without any request, also offline. A download says size and licence first, goes on
    where an earlier one stopped, and is compared with the hash that the Hub states.

    Args:
        repo: "owner/name".
        file: path in the repository.
        revision: branch, tag or commit. None: the main branch.
        key: config key that names the file, for messages.

    Raises:
        WeightsError: the file cannot be downloaded, or is not the one that the Hub describes.
    """
    wanted = f"{key}={repo}:{file}" + (f"@{revision}" if revision else "")
    try:
        found = _fetch(repo, file, revision)
    except Exception as error:  # the library does not wrap the errors of its HTTP client
        raise WeightsError(_reason(error, wanted, repo)) from error
    if found is None:
        raise WeightsError(f"{wanted}: the Hub repository has no such file; check its name.")
    return found


def fetch_hub_folder(repo: str, revision: str | None, key: str, files: Sequence[str]) -> Path:
    """The folder in the local cache that holds these files of one commit; missing ones are skipped.

    Args:
        repo, revision, key: as in :func:`fetch_hub_file`.
        files: paths in the repository. At least one has to be there.

    Raises:
        WeightsError: as in :func:`fetch_hub_file`, or none of the files is there.
    """
    wanted = f"{key}={repo}" + (f"@{revision}" if revision else "")
    folder, commit = None, revision
    for file in files:
        try:
            found = _fetch(repo, file, commit)
        except Exception as error:
            raise WeightsError(_reason(error, wanted, repo)) from error
        if found is not None and folder is None:
            folder = found.parents[file.count("/")]
            # The branch can move between two files, which belong to one commit.
            commit = folder.name
    if folder is None:
        raise WeightsError(
            f"{wanted}: the Hub repository has none of {', '.join(files)}; use another repository, or name "
            "one file of it (owner/name:file)."
        )
    return folder


def _fetch(repo: str, file: str, revision: str | None) -> Path | None:
    """The cached file, downloaded if needed; None if the repository lacks it."""
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repo, file, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None and COMMIT.fullmatch(revision or ""):
        return None  # the commit is known to lack it
    # The variable is read at each call and not at import, so that notebooks can set it.
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        download_blob(
            repo, file, revision, endpoint, lambda metadata: _announce(repo, file, metadata, endpoint)
        )
        # The library finds the content there, and gives it its name.
        return Path(
            hf_hub_download(repo, file, revision=revision, endpoint=endpoint, library_name="mar_accel")
        )
    except hub.EntryNotFoundError as error:
        if isinstance(error, hub.LocalEntryNotFoundError):
            raise  # no connection, and not in the cache
        return None


def _announce(repo: str, file: str, metadata: Any, endpoint: str | None) -> None:
    """Say what is going to be downloaded."""
    size = "unknown size" if metadata.size is None else f"{metadata.size / 1e6:,.1f} MB"
    licence = _licence(repo, metadata.commit_hash, endpoint)
    print(f"downloading {repo}:{file} ({size}, licence: {licence})", file=sys.stderr)


def _licence(repo: str, revision: str | None, endpoint: str | None) -> str:
    """The licence that the repository's card states."""
    from huggingface_hub import HfApi

    try:
        card: Any = HfApi(endpoint=endpoint).model_info(repo, revision=revision).card_data
        return str(card["license"]) if card and card["license"] else "not stated"
    except Exception:  # only the download itself has to succeed
        return "not stated"


def _reason(error: Exception, wanted: str, repo: str) -> str:
    """One sentence for an error of a download: what is wrong, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    if isinstance(error, HashError):
        return f"{wanted}: {error}, so it was removed; download it again."
    if isinstance(error, hub.GatedRepoError):
        return (
            f"{wanted} is in a gated Hub repository; accept its licence at https://huggingface.co/{repo} and "
            "log in with hf auth login, or use a local file."
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return f"{wanted}: the Hub repository lacks this revision; check its name."
    if isinstance(error, hub.RepositoryNotFoundError):
        # The Hub gives the same answer for private repositories.
        return (
            f"{wanted} is neither a local path nor a Hub repository that you can read; check the name, or "
            "log in to the Hub."
        )
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return (
            f"{wanted} cannot be written into the cache {constants.HF_HUB_CACHE} ({error.strerror}); make "
            "room there, or set HF_HOME to another folder."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{wanted} cannot be read with this login (HTTP {status}); log in with hf auth login."
    why = f"HTTP {status}" if status is not None else type(error).__name__
    return (
        f"{wanted} is neither a local path nor in the cache, and cannot be downloaded from the Hub "
        f"({why}); check the connection (and HF_HUB_OFFLINE), or use a local file."
    )
