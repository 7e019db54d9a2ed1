"""Sampler × cache × head cache × token cache × solver × guidance × inpainting on a tiny model.

Each two of them meet in at least one run of the pairwise rows. The full walks are marked long: one over all
but the parts of caches, and one over these. A combination runs, or is refused with a ConfigError that names a
key.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.inference.inpainting import Inpainting, box_mask, unknown_tokens
from mar_accel.inference.session import Session

from .pairwise import Row, composed, pairwise
from .test_combinations import FOUND, SAME_CLASSES

CONF = Path(__file__).parents[1] / "conf"
SIDE = 32
# Presets that set other numbers for the parts of other presets.
ONLY_OTHER_NUMBERS = {*SAME_CLASSES, *FOUND}


def _members(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


FACTORS = {
    "sampler": _members("sampler"),
    "cache": [name for name in _members("cache") if name != "none"],
    "cache/head": ["as it is", *_members("cache/head")],
    "cache/token": ["as it is", *_members("cache/token")],
    "sampler/solver": _members("sampler/solver"),
    "sampler/guidance_schedule": _members("sampler/guidance_schedule"),
    "mask": ["none", "center", "outside", "left"],
}
# All samplers meet all caches in test_combinations.py; these differ in every part.
SAMPLERS = ["mar", "gtr", "emigm", "disa"]
ROWS = pairwise({**FACTORS, "sampler": SAMPLERS})
SHORT = ["sampler.num_iter=12", "sampler.num_diffusion_steps=12", "model.architecture.head_depth=2"]


@pytest.fixture(scope="module")
def base(tiny_model: list[str]) -> Session:
    return Session.from_settings(compose_settings("generate", [*tiny_model, *SHORT]))


def _run(row: Row, base: Session, tiny_model: list[str]) -> bool:
    """Sample two images; returns False if the combination is refused with a reason."""
    groups = [f"{group}={value}" for group, value in row.items() if group != "mask" and value != "as it is"]
    try:
        own, settings = (composed("generate", *tiny_model, *SHORT, *more) for more in ((), groups))
        session = base.with_settings(settings, own)
        if row["mask"] != "none":
            images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
            mask = box_mask(row["mask"], SIDE, SIDE)[None]
            session = session.with_inpainting(Inpainting(images, mask))
    except ConfigError as error:
        assert any(key in str(error) for key in ("sampler", "cache")), error
        return False
    prediction = session.sample([0, 1], torch.tensor([3, 4]))
    assert prediction.tokens.isfinite().all() and prediction.images.isfinite().all()
    if session.inpainting is not None:
        known = session.model.patchify(session.autoencoder.encode(session.inpainting.images))
        unknown = unknown_tokens(session.inpainting.masks, [0, 1], session.model.config.grid)
        assert torch.equal(prediction.tokens[~unknown], known[~unknown])
    return True


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row.values()))
def test_pairs_run_or_are_refused_with_a_reason(row: Row, base: Session, tiny_model: list[str]) -> None:
    _run(row, base, tiny_model)


def test_few_pairs_are_refused(base: Session, tiny_model: list[str]) -> None:
    """Of a sample of the rows, nearly all run; the test above would pass if all were refused."""
    ran = [_run(row, base, tiny_model) for row in ROWS[::6]]
    assert sum(ran) >= 0.8 * len(ran)


def _walk(base: Session, tiny_model: list[str], **groups: list[str]) -> None:
    """Run every combination of these values; a factor that is not among them has its first value."""
    chosen = {factor: groups.get(factor, values[:1]) for factor, values in FACTORS.items()}
    ran = [
        _run(dict(zip(chosen, values, strict=True)), base, tiny_model) for values in product(*chosen.values())
    ]
    assert any(ran), "all combinations are refused"


@pytest.mark.long
@pytest.mark.parametrize("sampler", [name for name in FACTORS["sampler"] if name not in ONLY_OTHER_NUMBERS])
@pytest.mark.parametrize("cache", ["none", *FACTORS["cache"]])
def test_full_walk(cache: str, sampler: str, base: Session, tiny_model: list[str]) -> None:
    others = {name: FACTORS[name] for name in ("sampler/solver", "sampler/guidance_schedule")}
    _walk(base, tiny_model, **{"sampler": [sampler], "cache": [cache], "mask": ["none", "center"], **others})


@pytest.mark.long
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("cache", FACTORS["cache"])
def test_full_walk_of_the_parts_of_caches(
    cache: str, sampler: str, base: Session, tiny_model: list[str]
) -> None:
    others = {name: FACTORS[name] for name in ("cache/head", "cache/token", "mask")}
    _walk(base, tiny_model, **{"sampler": [sampler], "cache": [cache], **others})
