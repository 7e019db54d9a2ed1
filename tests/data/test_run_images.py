"""Formats of a run's images: resumed, joined, read back with the same pixels; damaged shards do not count."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import Settings
from mar_accel.data import shards as shards_module
from mar_accel.data.image_sets import open_images
from mar_accel.data.run_images import RunImages
from mar_accel.data.shards import FORMATS, NpzShards, Shards, TarShards, formats_in
from mar_accel.errors import ConfigError, IncompleteError
from mar_accel.evaluation.run import evaluate
from mar_accel.inference.module import InferenceModule
from mar_accel.runs.generation import generate
from mar_accel.utils import whole_files

NUM_IMAGES = 7
SHARDED = [kind for kind in FORMATS.values() if issubclass(kind, Shards)]
sharded = pytest.mark.parametrize("kind", SHARDED, ids=lambda kind: kind.name)


def _pictures(indices: list[int], mode: str = "L") -> list[Image.Image]:
    """Pictures whose pixels tell their index."""
    return [Image.new(mode, (4, 6), index if mode == "L" else (index, 0, 255)) for index in indices]


def _write(images: RunImages, *batches: list[int], mode: str = "L") -> None:
    images.start()
    for batch in batches:
        images.write(batch, [index % 3 for index in batch], _pictures(batch, mode))


@pytest.fixture
def config(tiny_model: list[str], tmp_path: Path) -> Callable[..., Settings]:
    def make(folder: str, *overrides: str) -> Settings:
        arguments = [f"dataset.num_images={NUM_IMAGES}", "trainer.batch_size=2", "dataset.labels=[4,7,1]"]
        return compose_settings(
            "generate", [*tiny_model, *arguments, f"output_dir={tmp_path / folder}", *overrides]
        )

    return make


@sharded
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_shards_are_joined_in_order_of_the_indices(
    kind: type[Shards], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_BLOCK_BYTES", 4 * 6 * 3 * 2)
    monkeypatch.setattr(shards_module, "TAR_IMAGES", 3)
    images = kind(tmp_path)
    # Two devices, then another batch size: parts overlap.
    _write(images, [0, 2, 4], [1, 3], [4, 5, 6], mode=mode)
    shape = (1 if mode == "L" else 3, 6, 4)
    assert images.indices() == list(range(7)) and images.whole(shape) == set(range(7))
    assert images.whole((1, 4, 4)) == set(), "another size"
    _write(images, [0, 2, 4], [1, 3], [4, 5, 6], mode=mode)
    images.join(7)
    images.tidy()
    assert not (tmp_path / "shards").exists() and images.indices() == list(range(7))
    assert images.whole(shape) == set(range(7))
    pixels = open_images(tmp_path).first(7)
    assert [int(image[0, 0, 0]) for image in pixels] == list(range(7)) and pixels.shape == (7, *shape)
    assert [np.asarray(picture).flat[0] for picture in images.first(3)] == [0, 1, 2]


@sharded
def test_a_longer_run_goes_on_after_a_joined_one(
    kind: type[Shards], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "TAR_IMAGES", 4)
    images = kind(tmp_path)
    _write(images, [0, 1, 2])
    images.join(3)
    images.tidy()
    _write(images, [2, 3], [4, 5])
    assert images.indices() == list(range(6))
    images.join(6)
    images.tidy()
    opened = open_images(tmp_path)
    assert [int(image[0, 0, 0]) for image in opened.first(6)] == list(range(6))
    assert [int(image[0, 0, 0]) for image in opened.at([5, 0])] == [5, 0]
    if kind is NpzShards:
        with np.load(tmp_path / "images.npz") as arrays:
            assert arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].shape == (6, 6, 4, 1)
            assert arrays["arr_1"].tolist() == [0, 1, 2, 0, 1, 2]


def test_samples_of_a_tar_are_named_as_webdataset_needs(tmp_path: Path) -> None:
    images = TarShards(tmp_path)
    _write(images, [0, 1])
    images.join(2)
    with tarfile.open(tmp_path / "webdataset" / "000000.tar") as archive:
        names = [member.name for member in archive]
        label = archive.extractfile("000001.cls")
        assert label is not None and label.read() == b"1"
    assert names == ["000000.png", "000000.cls", "000001.png", "000001.cls"]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:580]),
    "other bits": lambda file: file.write_bytes(_flipped(file.read_bytes())),
    "text": lambda file: file.write_text("hello"),
    "removed": lambda file: file.unlink(),
}


def _flipped(content: bytes) -> bytes:
    """A file whose pixels have one byte changed."""
    position = content.index(b"IDAT") + 10 if b"IDAT" in content else content.index(b"arr_0.npy") + 200
    return content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :]


@sharded
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_shard_does_not_count(
    kind: type[Shards], damage: Callable[[Path], object], tmp_path: Path
) -> None:
    images = kind(tmp_path)
    _write(images, [0, 1], [2, 3], [4])
    damage(next(file for file in images.parts if file.name.startswith("000002")))
    assert images.whole((1, 6, 4)) == {0, 1, 4}
    assert images.indices() == [0, 1, 4], "nor is it joined"


def _pixels(folder: Path) -> np.ndarray:
    return open_images(folder).first(NUM_IMAGES).numpy()


@sharded
def test_every_format_has_the_same_images_and_is_gone_on_with(
    kind: type[Shards], config: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, folder = f"generate.format={kind.name}", tmp_path / "run"
    assert generate(config("plain")) is not None
    step = InferenceModule.predict_step

    def stop_after_two(self: InferenceModule, batch: object, batch_idx: int) -> object:
        if batch_idx == 2:
            raise SystemExit(75)
        return step(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(InferenceModule, "predict_step", stop_after_two)
    with pytest.raises(SystemExit):
        generate(config("run", chosen))
    monkeypatch.setattr(InferenceModule, "predict_step", step)
    assert kind(folder).indices() == [0, 1, 2, 3] and not (folder / "run.json").exists()
    result = generate(config("run", chosen, "generate.resume=true"))
    assert result is not None and result.num_sampled == 3
    assert formats_in(folder) == [kind.name] and not (folder / "shards").exists()
    assert np.array_equal(_pixels(folder), _pixels(tmp_path / "plain"))
    opened, plain = open_images(folder), open_images(tmp_path / "plain")
    assert opened.labels is not None and plain.labels is not None
    assert opened.labels.tolist() == plain.labels.tolist() == [4, 7, 1, 4, 7, 1, 4]
    grids = [(path / "grid.png").read_bytes() for path in (folder, tmp_path / "plain")]
    assert grids[0] == grids[1]
    again = generate(config("run", chosen, "generate.resume=true"))
    assert again is not None and again.num_sampled == 0
    anew = generate(config("run", chosen, "trainer.batch_size=4"))
    assert anew is not None and anew.num_sampled == NUM_IMAGES
    assert json.loads((folder / "run.json").read_text())["num_images"] == NUM_IMAGES


@sharded
def test_shards_are_synced_and_the_record_comes_last(
    kind: type[Shards], config: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    sync, replace = whole_files._sync, os.replace
    monkeypatch.setattr(whole_files, "_sync", lambda path: (calls.append(("sync", path.name)), sync(path)))

    def note_and_replace(source: Path, target: Path) -> None:
        assert calls[-1] == ("sync", Path(source).name)
        calls.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "replace", note_and_replace)
    removed: list[bool] = []
    tidy = Shards.tidy

    def note_and_tidy(self: Shards) -> None:
        removed.append((tmp_path / "run" / "run.json").exists())
        tidy(self)

    monkeypatch.setattr(Shards, "tidy", note_and_tidy)
    generate(config("run", f"generate.format={kind.name}"))
    last = {"npz": "images.npz", "webdataset": "000000.tar"}[kind.name]
    renames = [name for call, name in calls if call == "rename"]
    assert renames[-3:] == [last, "grid.png", "run.json"] and removed == [True]
    for place, (call, name) in enumerate(calls):
        if call == "rename" and name[0].isdigit() and name != last:
            assert calls[place + 1] == ("sync", "shards")


@sharded
def test_a_shard_removed_during_a_run_is_missed(
    kind: type[Shards], config: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = InferenceModule.predict_step

    def remove_first(self: InferenceModule, batch: object, batch_idx: int) -> object:
        if batch_idx == 2:
            kind(tmp_path / "run").parts[0].unlink()
        return step(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(InferenceModule, "predict_step", remove_first)
    with pytest.raises(IncompleteError, match="lacks 2 of 7 images"):
        generate(config("run", f"generate.format={kind.name}"))
    assert not (tmp_path / "run" / "run.json").exists()


def test_formats_are_not_mixed(config: Callable[..., Settings]) -> None:
    assert generate(config("run")) is not None
    for resume in ("true", "false"):
        with pytest.raises(ConfigError, match=r"has images as png, but generate\.format=npz"):
            generate(config("run", "generate.format=npz", f"generate.resume={resume}"))


@sharded
def test_evaluate_reads_the_runs_of_every_format(
    kind: type[Shards], config: Callable[..., Settings], tiny_model: list[str], tmp_path: Path
) -> None:
    generate(config("plain"))
    generate(config("run", f"generate.format={kind.name}"))
    numbers = []
    for name in ("plain", "run"):
        arguments = [f"evaluate.images={tmp_path / name}", f"evaluate.baseline={tmp_path / 'plain'}"]
        settings = compose_settings(
            "evaluate",
            [*tiny_model, *arguments, "reference.augmentations=0", f"output_dir={tmp_path / name}_judged"],
        )
        evaluation = evaluate(settings)
        assert evaluation is not None
        numbers.append(evaluation.metrics)
    assert numbers[0]["fid"] == numbers[1]["fid"] and numbers[0]["recognised"] == numbers[1]["recognised"]
    with pytest.raises(ConfigError, match="would be overwritten"):
        evaluate(settings.with_(output_dir=str(tmp_path / "run")))


ODD: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "gone": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("kind", FORMATS.values(), ids=lambda kind: kind.name)
def test_what_is_no_file_is_no_image(
    kind: type[RunImages], odd: Callable[[Path], object], tmp_path: Path
) -> None:
    images = kind(tmp_path)
    _write(images, [0, 1])
    for name in ("images/000002.png", "shards/000002-0.npz", "shards/000002-0.tar", "webdataset/000000.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        odd(tmp_path / name)
    assert images.indices() == [0, 1] and images.whole((1, 6, 4)) == {0, 1}
    if kind is NpzShards:
        odd(tmp_path / "images.npz")
        assert images.indices() == [0, 1]


@pytest.mark.parametrize("name", ["images", "shards", "images.npz", "webdataset"])
def test_what_lies_where_images_go_is_one_sentence(
    name: str, run_here: Callable[..., Any], tiny_model: list[str], tmp_path: Path
) -> None:
    kinds = {"images": "png", "shards": "npz", "images.npz": "npz", "webdataset": "webdataset"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).touch() if name != "images.npz" else (tmp_path / "run" / name).mkdir()
    arguments = [f"generate.format={kinds[name]}", "dataset.num_images=2", f"output_dir={tmp_path / 'run'}"]
    outcome = run_here("generate", *tiny_model, *arguments)
    (line,) = outcome.stderr.strip().splitlines()
    assert outcome.status == 2 and name in line and "remove it" in line
    assert not (tmp_path / "run" / "run.json").exists()


@sharded
def test_first_images_span_several_files(
    kind: type[Shards], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "TAR_IMAGES", 2)
    images = kind(tmp_path)
    _write(images, [0, 1, 2], [3, 4])
    images.join(5)
    assert [np.asarray(picture).flat[0] for picture in images.first(5)] == [0, 1, 2, 3, 4]


@sharded
def test_images_are_read_from_shards_and_from_joined_files(kind: type[Shards], tmp_path: Path) -> None:
    images = kind(tmp_path)
    _write(images, [0, 2, 4], [1, 3])
    batches = [[1, 0], [4, 2, 3]]
    for _ in range(2):
        read = [batch[:, 0, 0, 0].tolist() for batch in images.read(batches)]
        assert read == batches
        images.join(5)
        images.tidy()


def test_an_npz_that_was_compressed_by_hand_counts(tmp_path: Path) -> None:
    images = NpzShards(tmp_path)
    _write(images, [0, 1, 2])
    images.join(3)
    images.tidy()
    with np.load(tmp_path / "images.npz") as arrays:
        joined = dict(arrays)
    np.savez_compressed(tmp_path / "images.npz", **joined)
    assert images.whole((1, 6, 4)) == {0, 1, 2} and next(images.read([[2]])).flatten()[0] == 2
    joined["arr_0"] = joined["arr_0"].astype(np.float32)
    np.savez(tmp_path / "images.npz", **joined)
    assert images.whole((1, 6, 4)) == set(), "not the pixels of a run"
