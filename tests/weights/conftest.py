"""A tiny model, and a Hub that serves a folder on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mar_accel.models.mar import MAR, MARConfig
from mar_accel.weights.loading import load_mar

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def tiny_config() -> MARConfig:
    return MARConfig(
        grid=(4, 4),
        latent_channels=1,
        num_classes=3,
        buffer_size=2,
        embed_dim=16,
        num_heads=2,
        encoder_depth=1,
        decoder_depth=1,
        head_depth=1,
        head_width=16,
    )


@pytest.fixture
def tiny_model(tiny_config: MARConfig) -> MAR:
    return load_mar(tiny_config, "random", "tiny")


class FakeHub:
    """Repositories are the folders ``<root>/<owner>/<name>``; requests for others get the Hub's 404."""

    def __init__(self, root: Path):
        self.root = root
        self.requested: list[str] = []
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
        """``/owner/name/resolve/revision/file``."""
        owner, name, _, revision, *parts = request.path.split("?")[0].strip("/").split("/")
        file = self.root.joinpath(owner, name, *parts)
        if not (self.root / owner / name).is_dir():
            return self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if revision not in ("main", REVISION):
            return self._send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
        if not file.is_file():
            return self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        data = file.read_bytes()
        if body:
            self.requested.append("/".join(parts))
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": REVISION}
        return self._send(request, 200, data, headers, body)

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str], body: bool = True
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
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
    yield served
    served.server.shutdown()
    served.server.server_close()
