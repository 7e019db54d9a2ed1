"""An evaluation writes and goes on with every format of images, and reads them as what it compares with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import Settings
from mar_accel.data.image_sets import open_images
from mar_accel.data.shards import FORMATS, Shards, formats_in
from mar_accel.errors import ConfigError
from mar_accel.evaluation.run import evaluate
from mar_accel.inference.module import InferenceModule
from mar_accel.metrics.catalogue import EQUAL_IMAGES_PSNR

NUM_IMAGES = 7
SHARDED = [kind for kind in FORMATS.values() if issubclass(kind, Shards)]
sharded = pytest.mark.parametrize("kind", SHARDED, ids=lambda kind: kind.name)


@pytest.fixture
def config(tiny: list[str], tmp_path: Path) -> Callable[..., Settings]:
    def make(folder: str, *overrides: str) -> Settings:
        few = [f"dataset.num_images={NUM_IMAGES}", "trainer.batch_size=2", "evaluate.fidelity_images=5"]
        quick = ["evaluate.baseline=none", "evaluate.profile=false", f"reference.cache_dir={tmp_path}"]
        arguments = [*tiny, *few, *quick, f"output_dir={tmp_path / folder}", *overrides]
        return compose_settings("evaluate", arguments)

    return make


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


@sharded
def test_an_evaluation_that_was_cut_off_goes_on(
    kind: type[Shards], config: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, folder = f"evaluate.format={kind.name}", tmp_path / "run"
    evaluate(config("plain"))
    step = InferenceModule.predict_step

    def stop_after_two(self: InferenceModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2:
            raise SystemExit(75)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(InferenceModule, "predict_step", stop_after_two)
    with pytest.raises(SystemExit):
        evaluate(config("run", chosen))
    monkeypatch.setattr(InferenceModule, "predict_step", step)
    # A shard that cannot be read does not count.
    kind(folder).parts[0].write_bytes(b"")
    evaluate(config("run", chosen, "evaluate.resume=true"))
    assert formats_in(folder) == [kind.name] and not (folder / "shards").exists()
    pixels = [open_images(path).first(NUM_IMAGES) for path in (folder, tmp_path / "plain")]
    assert np.array_equal(*pixels)
    assert (folder / "grid.png").read_bytes() == (tmp_path / "plain" / "grid.png").read_bytes()
    for key in ("fid", "recognised", "num_images"):
        assert _metrics(folder)[key] == pytest.approx(_metrics(tmp_path / "plain")[key], rel=1e-4)
    # Where all images are there, they are read from the joined files, and nothing is sampled.
    (folder / "metrics.json").unlink()
    monkeypatch.setattr("lightning.pytorch.Trainer.predict", lambda *_, **__: pytest.fail("sampled"))
    evaluate(config("run", chosen, "evaluate.resume=true", "trainer.batch_size=3"))
    assert _metrics(folder)["fid"] == pytest.approx(_metrics(tmp_path / "plain")["fid"], rel=1e-4)


@sharded
def test_a_run_of_every_format_is_images_and_baseline(
    kind: type[Shards], config: Callable[..., Settings], tmp_path: Path
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    evaluate(config("run", f"evaluate.format={kind.name}"))
    evaluate(config("other", f"evaluate.baseline={run}"))
    evaluate(config("stored", f"evaluate.images={run}", f"evaluate.baseline={other}"))
    for name in ("other", "stored"):
        metrics = _metrics(tmp_path / name)
        assert metrics["psnr"] == EQUAL_IMAGES_PSNR and metrics["latent_mse"] == 0, name
        assert metrics["fidelity_images"] == 5
        assert metrics["fid"] == pytest.approx(_metrics(run)["fid"], rel=1e-4)


def test_formats_are_not_mixed(config: Callable[..., Settings]) -> None:
    evaluate(config("run", "evaluate.format=npz"))
    with pytest.raises(ConfigError, match=r"has images as npz, but evaluate\.format=png; choose another"):
        evaluate(config("run", "evaluate.resume=true"))


def test_formats_do_not_change_a_number(config: Callable[..., Settings]) -> None:
    from mar_accel.runs.identity import Identity

    plain, shards = Identity.of(config("run")), Identity.of(config("run", "evaluate.format=npz"))
    assert plain.images_hash == shards.images_hash and plain.measurement_hash != shards.measurement_hash
