"""One file of a Hub repository, and model.weights=published, against a Hub on this machine."""

from __future__ import annotations

import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mar_accel.config.compose import compose_model, compose_settings
from mar_accel.config.hydra_context import conf_dir
from mar_accel.config.settings import ModelSettings
from mar_accel.errors import ConfigError, WeightsError
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.pipeline import MARPipeline
from mar_accel.weights.hub_files import HUB_FILE
from mar_accel.weights.loading import load_mar
from mar_accel.weights.sources import HUB_ID, locate

REPO, FILE = "someone/weights", "sub/model.safetensors"


@pytest.fixture
def published(hub: Any, tiny_model: MAR) -> bytes:
    """Weights in a repository with a licence; the content of the file."""
    path = hub.root / REPO / FILE
    path.parent.mkdir(parents=True)
    save_file(tiny_model.state_dict(), path)
    hub.licences[REPO] = "mit"
    return path.read_bytes()


def test_file_is_announced_downloaded_and_cached(
    hub: Any,
    published: bytes,
    tiny_model: MAR,
    tiny_config: MARConfig,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = load_mar(tiny_config, f"{REPO}:{FILE}", "tiny")
    torch.testing.assert_close(loaded.state_dict(), tiny_model.state_dict(), rtol=0, atol=0)
    said = capsys.readouterr().err
    assert f"downloading {REPO}:{FILE} ({len(published) / 1e6:,.1f} MB, licence: mit)" in said
    assert hub.requested == [FILE]
    hub.server.shutdown()
    hub.server.server_close()
    assert locate(f"{REPO}:{FILE}", "model.weights", []) is not None and not capsys.readouterr().err


@pytest.mark.parametrize("kind", ["sha256", "git"])
def test_hash_of_the_hub_is_checked(hub: Any, published: bytes, kind: str) -> None:
    git = hashlib.sha1(f"blob {len(published)}\0".encode() + published).hexdigest()
    right = {"sha256": hashlib.sha256(published).hexdigest(), "git": git}[kind]
    hub.stated[FILE] = right[::-1]
    with pytest.raises(WeightsError, match=r"does not have the hash that the Hub states, so it was removed"):
        locate(f"{REPO}:{FILE}", "model.weights", [])
    hub.stated[FILE] = right
    path = locate(f"{REPO}:{FILE}@main", "model.weights", [])
    assert path is not None and path.read_bytes() == published


VALUE = f"{REPO}:{FILE}"


def _get(value: str = VALUE) -> bytes:
    path = locate(value, "model.weights", [])
    assert path is not None
    return path.read_bytes()


def test_download_goes_on_where_it_was_interrupted(hub: Any, published: bytes, tmp_path: Path) -> None:
    half = len(published) // 200 * 100
    hub.end_after = half
    with pytest.raises(WeightsError, match=r"cannot be downloaded from the Hub .*check the connection"):
        _get()
    (partial,) = (tmp_path / "hub-cache").rglob("*.resume")
    assert partial.read_bytes() == published[:half]
    hub.end_after, hub.refuses = None, None
    assert _get() == published
    assert hub.ranges == [None, f"bytes={half}-"]
    assert not list((tmp_path / "hub-cache").rglob("*.resume"))


def test_interrupted_part_of_another_file_is_not_used(hub: Any, published: bytes, tmp_path: Path) -> None:
    hub.end_after = len(published) // 2
    with pytest.raises(WeightsError):
        _get()
    hub.end_after, hub.refuses = None, None
    (partial,) = (tmp_path / "hub-cache").rglob("*.resume")
    partial.write_bytes(b"x" * hub.root.joinpath(REPO, FILE).stat().st_size)
    with pytest.raises(WeightsError, match=r"does not have the hash that the Hub states, so it was removed"):
        _get()
    assert not partial.exists() and _get() == published


@pytest.mark.parametrize("there", [10, 10**7])
def test_server_without_ranges_and_parts_that_are_too_long(
    hub: Any, published: bytes, tmp_path: Path, there: int
) -> None:
    hub.end_after = 1000
    with pytest.raises(WeightsError):
        _get()
    hub.end_after, hub.refuses, hub.ignores_range = None, None, True
    (partial,) = (tmp_path / "hub-cache").rglob("*.resume")
    partial.write_bytes(b"x" * there)
    assert _get() == published


@pytest.mark.parametrize("size", [10, 10**6])
def test_wrong_size_is_no_dead_end(hub: Any, published: bytes, size: int) -> None:
    hub.stated_size = size
    with pytest.raises(WeightsError, match=r"cannot be downloaded from the Hub"):
        _get()
    hub.stated_size = None
    assert _get() == published


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, "GatedRepo"), "is in a gated Hub repository; accept its licence at .*hf auth login"),
        ((401, ""), r"cannot be read with this login \(HTTP 401\); log in"),
        ((403, ""), r"cannot be read with this login \(HTTP 403\); log in"),
        ((404, "RepoNotFound"), "is neither a local path nor a Hub repository that you can read"),
        ((503, ""), r"is neither .* cannot be downloaded from the Hub \(HTTP 503\)"),
    ],
)
def test_refusals_of_the_server(hub: Any, published: bytes, refusal: tuple[int, str], words: str) -> None:
    hub.refuses = refusal
    with pytest.raises(WeightsError, match=rf"^model\.weights={VALUE} {words}"):
        _get()


def test_file_elsewhere(hub: Any, published: bytes) -> None:
    hub.moved = True
    assert _get() == published


def test_offline_mode(hub: Any, published: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"nor in the cache, and cannot be downloaded .*HF_HUB_OFFLINE"):
        _get()
    assert not hub.requested
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert _get() == published
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert _get() == published and _get(f"{VALUE}@main") == published


def test_cache_that_cannot_be_written(hub: Any, published: bytes, tmp_path: Path) -> None:
    (tmp_path / "hub-cache").write_text("a file in the way")
    with pytest.raises(WeightsError, match=r"cannot be written into the cache \S+hub-cache \(.*HF_HOME"):
        _get()


def test_full_disk_keeps_what_has_arrived(
    hub: Any, published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.file_download import http_get

    def full(url: str, target: Any, **settings: Any) -> None:
        target.write(published[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(WeightsError, match=r"\(No space left on device\); make room there"):
        _get()
    monkeypatch.setattr("huggingface_hub.file_download.http_get", http_get)
    assert _get() == published and hub.ranges == ["bytes=100-"]


def test_two_downloads_at_once(hub: Any, published: bytes) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_get, [VALUE] * 4)) == [published] * 4
    assert hub.requested == [FILE]


def test_repository_is_announced_and_checked_as_well(
    hub: Any, published: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.stated[FILE] = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(WeightsError, match=rf"^model\.weights={REPO}: .* hash that the Hub states"):
        locate(REPO, "model.weights", [FILE])
    hub.stated.clear()
    folder = locate(REPO, "model.weights", [FILE, "missing.json"])
    assert folder is not None and (folder / FILE).read_bytes() == published
    assert f"downloading {REPO}:{FILE}" in capsys.readouterr().err


def test_pipeline_of_a_text_model_comes_from_the_hub_whole(hub: Any, tmp_path: Path) -> None:
    MARPipeline("scenes").save_pretrained(hub.root / "someone" / "scenes")
    pipe = MARPipeline.from_pretrained("someone/scenes")
    assert pipe.text_encoder is not None and "text_encoder/model.safetensors" in hub.requested


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (f"{REPO}:nothing.pth", "the Hub repository has no such file"),
        (f"{REPO}:{FILE}@v7", "the Hub repository lacks this revision"),
        ("someone/unknown:a.pth", "neither a local path nor a Hub repository that you can read"),
    ],
)
def test_refusals_are_one_sentence(hub: Any, published: bytes, value: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        locate(value, "model.weights", [])


def test_no_connection(hub: Any, published: bytes) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(WeightsError, match=r"nor in the cache, and cannot be downloaded"):
        locate(f"{REPO}:{FILE}", "model.weights", [])


def test_an_existing_path_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b:c").write_text("")
    assert locate("a/b:c", "model.weights", []) == Path("a/b:c")


def test_published_weights_of_a_preset() -> None:
    model = compose_settings("generate", ["model=detok_base", "model.weights=published"]).model
    assert model.weights == "jjiaweiyang/l-DeTok:mar_base.pth"
    assert model.autoencoder["weights"].endswith("decoder_tuned.pth")
    assert model.autoencoder["statistics"] == "jjiaweiyang/l-DeTok:stats.pkl"
    large = compose_settings("generate", ["model=emigm_large_512", "model.weights=published"]).model
    assert large.weights == "GSAI-ML/eMIGM:eMIGM_large_512_checkpoint.pth"
    assert large.autoencoder["weights"] == "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers"
    own = ["model=emigm_base", "model.weights=published", "model.autoencoder.weights=kl16.ckpt"]
    assert compose_settings("generate", own).model.autoencoder["weights"] == "kl16.ckpt"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["weights=published"], "model.weights=published: no published weights of model=mar_base are known"),
        (
            ["weights=random", "autoencoder.weights=published"],
            "model.autoencoder.weights=published: no published autoencoder of model=mar_base",
        ),
    ],
)
def test_unknown_places_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_settings("generate", ["model=mar_base", *(f"model.{each}" for each in overrides)])


@pytest.mark.parametrize("name", [p.stem for p in (conf_dir() / "model").glob("*.yaml") if "_" in p.stem])
def test_published_places_are_whole(name: str) -> None:
    """A preset that knows its weights on the Hub knows its autoencoder as well: one key is enough."""
    published = compose_model(name).published
    assert (published is None) == name.startswith(("mar_", "lightgen_"))
    for value in (published["weights"], published["autoencoder"]["weights"]) if published else ():
        assert HUB_FILE.fullmatch(value) or HUB_ID.fullmatch(value)


def test_place_can_be_changed() -> None:
    node = {"_target_": "x", "weights": "published"}
    model = ModelSettings(
        "m", {}, node, "published", published={"weights": "a/b:c@d", "autoencoder": {"weights": "e/f"}}
    )
    assert (model.weights, model.autoencoder["weights"]) == ("a/b:c@d", "e/f")
