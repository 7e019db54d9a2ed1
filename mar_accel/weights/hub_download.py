"""Download of one file of the Hub into the cache of huggingface_hub, which goes on after an interruption.

huggingface_hub resumes within one call. It gives every call a file of its own, so that a killed process would
start again at zero. Here the unfinished file has a fixed name, below a lock.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
RANGE_NOT_SATISFIABLE = 416


class HashError(Exception):
    """A downloaded file is not the one that the Hub describes; it has been removed."""


def download_blob(
    repo: str, file: str, revision: str | None, endpoint: str | None, announce: Callable[[Any], None]
) -> None:
    """Put the content of a file into the cache's ``blobs/``, unless it is there.

    The content is compared with the Hub's hash before it gets its name: SHA-256 of large files, git's or
    plain SHA-1 of small ones.

    Args:
        repo, file, revision: repository, path in it, and branch, tag or commit (None: main).
        endpoint: URL of the Hub. None: the library's default.
        announce: is told the metadata before a download.

    Raises:
        HashError: the content has another hash.
        Exception: any error of huggingface_hub, its HTTP client or the file system.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    if constants.HF_HUB_OFFLINE:
        return  # the library says that the file is not in the cache
    url = hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
    metadata = get_hf_file_metadata(url, library_name="mar_accel")
    if metadata.etag is None or metadata.commit_hash is None or "/" in metadata.etag:
        return  # no Hub; the library says so
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    blob = blobs / metadata.etag
    if blob.exists():
        return
    announce(metadata)
    blobs.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(blobs / f"{metadata.etag}.resume.lock"):
        if blob.exists():  # another process has downloaded it meanwhile
            return
        partial = blobs / f"{metadata.etag}.resume"
        _receive(url, partial, metadata.size, build_hf_headers(library_name="mar_accel"))
        _require_hash(partial, metadata.etag)
        os.replace(partial, blob)


def _receive(url: str, partial: Path, size: int | None, headers: dict[str, str]) -> None:
    """Append what is missing to the unfinished file; an impossible one is started again."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    there = partial.stat().st_size if partial.exists() else 0
    if size is None or there > size:
        partial.unlink(missing_ok=True)
        there = 0
    try:
        with partial.open("ab") as target:
            http_get(url, target, resume_size=there, headers=headers, expected_size=size)
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code == RANGE_NOT_SATISFIABLE:
            partial.unlink(missing_ok=True)
        raise
    except OSError as error:
        if "Consistency check" in str(error):  # sizes differ, so what has arrived is another file
            partial.unlink(missing_ok=True)
        raise


def _require_hash(path: Path, expected: str) -> None:
    """Remove a file and raise HashError if its hash is not the expected one."""
    if not _HASH.fullmatch(expected):
        return
    git = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    digests = [hashlib.sha256(), git, hashlib.sha1(usedforsecurity=False)]
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            for digest in digests:
                digest.update(block)
    if expected not in [digest.hexdigest() for digest in digests]:
        path.unlink(missing_ok=True)
        raise HashError("the downloaded file does not have the hash that the Hub states")
