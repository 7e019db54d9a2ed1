"""A tiny model, and a Hub that serves a folder on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mar_accel.models.mar import MAR, MARConfig
from mar_accel.weights.loading import load_mar

from ..tiny import tiny_config

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(name="tiny_config")
def config_of_pixels() -> MARConfig:
    return tiny_config(latent_channels=1, num_classes=3)


@pytest.fixture
def tiny_model(tiny_config: MARConfig) -> MAR:
    return load_mar(tiny_config, "random", "tiny")


class FakeHub:
    """Repositories are the folders ``<root>/<owner>/<name>``; requests for others get the Hub's 404."""

    def __init__(self, root: Path):
        self.root = root
        self.requested: list[str] = []
        # Licences of repositories, and hashes that are stated instead of the true ones, by file.
        self.licences: dict[str, str] = {}
        self.stated: dict[str, str] = {}
        # The Range headers of downloads, and how downloads go wrong: the connection ends after so many bytes,
        # every answer has this status and error code, ranges are ignored, another size is stated, files lie
        # elsewhere.
        self.ranges: list[str | None] = []
        self.end_after: int | None = None
        self.refuses: tuple[int, str] | None = None
        self.ignores_range = False
        self.stated_size: int | None = None
        self.moved = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        """``/owner/name/resolve/revision/file``, or ``/api/models/owner/name``."""
        if request.path.startswith("/api/models/"):
            repo = "/".join(request.path.split("?")[0].split("/")[3:5])
            card = {"id": repo, "cardData": {"license": self.licences.get(repo)}, "siblings": []}
            return self._send(request, 200, json.dumps(card).encode(), {}, body)
        owner, name, _, revision, *parts = request.path.split("?")[0].strip("/").split("/")
        file = self.root.joinpath(owner, name, *parts)
        if not (self.root / owner / name).is_dir():
            return self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if revision not in ("main", REVISION):
            return self._send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
        if not file.is_file():
            return self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        data, path = file.read_bytes(), "/".join(parts)
        if self.refuses is not None:
            return self._send(request, self.refuses[0], b"", {"X-Error-Code": self.refuses[1]}, body)
        stated = self.stated.get(path, hashlib.sha1(data).hexdigest())
        headers = {"ETag": f'"{stated}"', "X-Repo-Commit": REVISION}
        if self.moved and "elsewhere" not in request.path:
            size = str(len(data))
            headers |= {"X-Linked-Etag": f'"{stated}"', "X-Linked-Size": size}
            headers["Location"] = f"{self.url}{request.path}?elsewhere"
            return self._send(request, 302, b"", headers, body)
        if not body and self.stated_size is not None:
            return self._send(request, 200, data, headers, body, self.stated_size)
        if not body:
            return self._send(request, 200, data, headers, body)
        self.requested.append(path)
        self.ranges.append(request.headers.get("Range"))
        return self._send_part(request, data, headers)

    def _send_part(self, request: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str]) -> None:
        """What the Range header asks for, up to where the connection ends."""
        asked = None if self.ignores_range else request.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(data):
            return self._send(request, 416, b"", headers)
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        rest = data[start:]
        if self.end_after is None:
            return self._send(request, 206 if asked else 200, rest, headers)
        # The headers state all of it; then the connection ends, and later ones are refused.
        self._send(request, 206 if asked else 200, rest[: self.end_after], headers, True, len(rest))
        self.refuses = (500, "")
        request.close_connection = True
        return None

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str],
        body: bool = True,
        size: int | None = None,
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data) if size is None else size)}.items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty Hub, which is the one that weights are fetched from, into an empty cache."""
    served = FakeHub(tmp_path / "hub")
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # The library keeps what has arrived in pieces of 10 MB, and waits a second before it tries again.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    yield served
    served.server.shutdown()
    served.server.server_close()
