"""What counts in an identity: one's own sources wherever they are imported, and the conditions of a speed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.runs import contents
from mar_accel.runs.contents import sources_of
from mar_accel.runs.identity import Identity, decides_per_batch

ORDER = "from mar_accel.sampling.orders import RasterOrder\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("constants", "from contents_constants import FLIP\n"),
        ("inside", "class Deep:\n    def f(self):\n        import contents_inside\n"),
        ("package", "from contents_package import part\n"),
    ],
)
def test_every_imported_module_counts(own: Path, name: str, line: str) -> None:
    imported = own / f"contents_{name}.py"
    if name == "package":
        imported = own / "contents_package" / "part.py"
        imported.parent.mkdir()
        (imported.parent / "__init__.py").touch()
    imported.write_text("FLIP = 0\n")
    (own / f"order_{name}.py").write_text(f"{ORDER}{line}\n\nclass Own(RasterOrder):\n    ...\n")
    node = {"order": {"_target_": f"order_{name}.Own"}}
    before = sources_of(node)
    imported.write_text("FLIP = 10\n")
    assert before != sources_of(node)


@pytest.mark.parametrize("inside", [False, True])
def test_a_module_counts_although_its_folder_was_listed_before(own: Path, inside: bool) -> None:
    """Python lists a folder again only if its time of modification differs, which is coarse."""
    name = f"contents_late_{inside}"
    assert importlib.util.find_spec(name) is None  # the folder is listed here
    listed = own.stat()
    (own / f"{name}_helper.py").write_text("FLIP = 0\n")
    line = f"class Deep:\n    def f(self):\n        import {name}_helper\n" if inside else ""
    (own / f"{name}.py").write_text(f"{ORDER}{line}class Own(RasterOrder):\n    ...\n")
    os.utime(own, ns=(listed.st_atime_ns, listed.st_mtime_ns))
    assert sources_of({"_target_": f"{name}.Own"}).keys() == {name, *([f"{name}_helper"] if inside else [])}


def test_a_folder_that_only_begins_like_the_package_is_ones_own(own: Path) -> None:
    (own / "mar_accel_ext.py").write_text(f"{ORDER}class Own(RasterOrder):\n    ...\n")
    assert "mar_accel_ext" in sources_of({"_target_": "mar_accel_ext.Own"})


def test_a_library_counts_by_its_version() -> None:
    assert sources_of({"_target_": "torchmetrics.MeanMetric"}).keys() == {"torch", "torchmetrics"}


def test_the_build_of_a_library_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a CPU and one on a GPU may have the same version in different builds."""
    found = []
    for version in ("2.13.0+cpu", "2.13.0+cu130", "2.14.0"):
        contents._versions.cache_clear()
        monkeypatch.setattr(contents.importlib.metadata, "version", lambda name, version=version: version)
        found.append(sources_of({"_target_": "torch.nn.Identity"}))
    contents._versions.cache_clear()
    assert found[0] == found[1] != found[2]


def test_the_libraries_of_the_embedded_model_do_not_count() -> None:
    """So a run can be continued on a machine with another version of torch."""
    for model, dataset in (("digits", "digits"), ("scenes", "scenes_eval")):
        settings = compose_settings("generate", [f"model={model}", f"dataset={dataset}", "sampler=gtr"])
        assert Identity.of(settings).images["sources"] == {}


def test_a_library_counts_by_its_version_under_another_name() -> None:
    found = sources_of({"_target_": "sklearn.preprocessing.StandardScaler"})
    assert "scikit-learn" in found and not any(name.startswith("sklearn.") for name in found)


def test_a_module_beside_the_libraries_without_a_version_counts_by_its_content(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_LIBRARIES", (str(own),))
    file = own / "order_among_libraries.py"
    file.write_text(f"{ORDER}class Own(RasterOrder):\n    ...\n")
    node = {"_target_": "order_among_libraries.Own"}
    before = sources_of(node)
    assert "order_among_libraries" in before
    file.write_text(f"{ORDER}class Own(RasterOrder):\n    changed = True\n")
    assert sources_of(node) != before


def test_a_class_that_inherits_the_adaptive_refresh_decides_per_batch(own: Path) -> None:
    (own / "own_adaptive.py").write_text(
        "from mar_accel.caching.adaptive import AdaptiveRefresh\nclass Own(AdaptiveRefresh):\n    ...\n"
    )
    lazy = ["cache=lazymar", "cache/refresh=adaptive", "cache.refresh._target_=own_adaptive.Own"]
    two, eight = (compose_settings("generate", [*lazy, f"trainer.batch_size={size}"]) for size in (2, 8))
    assert decides_per_batch(two) and Identity.of(two).images_hash != Identity.of(eight).images_hash


@pytest.mark.parametrize("override", ["+trainer.profiler=simple", "callbacks=none", "trainer.batch_size=3"])
def test_conditions_count_for_the_speed_and_not_for_the_images(override: str) -> None:
    plain, other = (Identity.of(compose_settings("evaluate", o)) for o in ([], [override]))
    assert plain.images_hash == other.images_hash and plain.evaluation_hash == other.evaluation_hash
    assert plain.measurement_hash != other.measurement_hash


def test_statistics_and_other_autoencoders_count_by_content(tmp_path: Path) -> None:
    """Those beside DeTok's tokenizer as well as a given file, and the ``vae/`` of any kind."""
    for name in ("tokenizer.pth", "stats.pkl", "other.pkl"):
        (tmp_path / name).write_bytes(b"one")
    (tmp_path / "folder" / "vae").mkdir(parents=True)
    (tmp_path / "folder" / "vae" / "config.json").write_text('{"_class_name": "DeTok"}')
    beside = [f"model.autoencoder.weights={tmp_path}/tokenizer.pth"]
    for overrides, file in (
        (beside, "stats.pkl"),
        ([*beside, f"model.autoencoder.statistics={tmp_path}/other.pkl"], "other.pkl"),
        ([f"model.autoencoder.weights={tmp_path}/folder"], "folder/vae/config.json"),
    ):
        names, path = [], tmp_path / file
        for content in (path.read_text(), path.read_text() + " ", path.read_text()):
            path.write_text(content)
            settings = compose_settings("generate", ["model=detok_base", "model.weights=random", *overrides])
            names.append(Identity.of(settings).images_hash)
        assert names[0] == names[2] != names[1], file


def test_an_encoder_or_judge_that_is_a_folder_counts_by_its_files(tmp_path: Path) -> None:
    """The same folder with other files gives other images, or other numbers."""
    encoder = ["model=lightgen_base", "dataset=prompts", "dataset.prompts=[a cat]"]
    encoder += [f"model.text_encoder.weights={tmp_path}", "model.weights=random"]
    judge = ["features=dinov2", f"features.weights={tmp_path}"]
    hashes: list[set[str]] = []
    for content in ("one", "other"):
        (tmp_path / "model.safetensors").write_text(content)
        images = Identity.of(compose_settings("evaluate", encoder)).images_hash
        hashes.append({images, Identity.of(compose_settings("evaluate", judge)).evaluation_hash})
    assert not hashes[0] & hashes[1]
