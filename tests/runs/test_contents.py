"""What counts in an identity: one's own sources wherever they are imported, and the conditions of a speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mar_accel.config.compose import compose_settings
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


def test_a_folder_that_only_begins_like_the_package_is_ones_own(own: Path) -> None:
    (own / "mar_accel_ext.py").write_text(f"{ORDER}class Own(RasterOrder):\n    ...\n")
    assert "mar_accel_ext" in sources_of({"_target_": "mar_accel_ext.Own"})


def test_a_library_counts_by_its_version() -> None:
    assert sources_of({"_target_": "torchmetrics.MeanMetric"}).keys() == {"torch", "torchmetrics"}


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
