"""The CLIP score gets each image with its prompt; a stand-in takes the place of CLIP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics.multimodal
from torch import Tensor
from torchmetrics import Metric

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError, DataError
from mar_accel.evaluation.own_metrics import OwnMetrics


class Lengths(Metric):
    """Mean of brightness times the length of the prompt."""

    total: Tensor
    count: Tensor

    def __init__(self, model_name_or_path: str):
        super().__init__()
        if model_name_or_path == "missing":
            raise OSError("no such model\nwith more lines")
        for name in ("total", "count"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, images: list[Tensor], texts: list[str]) -> None:
        for image, text in zip(images, texts, strict=True):
            self.total += image.float().mean() * len(text)
            self.count += 1

    def compute(self) -> Tensor:
        return self.total / self.count


@pytest.fixture
def clip(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torchmetrics.multimodal, "CLIPScore", Lengths, raising=False)


OVERRIDES = ["model=scenes", "dataset=prompts", "dataset.prompts=[a six,a red two]", "metrics=clip"]


def test_images_meet_their_prompts(clip: Any) -> None:
    metrics = OwnMetrics.of(compose_settings("evaluate", OVERRIDES), (3, 64, 64))
    images = torch.stack([torch.full((3, 64, 64), value, dtype=torch.uint8) for value in (10, 20)])
    metrics.update(images, torch.tensor([0, 1]))
    assert metrics.compute() == {"clip_score": pytest.approx((10 * 5 + 20 * 9) / 2)}


def test_images_without_known_prompts_are_refused(clip: Any) -> None:
    metrics = OwnMetrics.of(compose_settings("evaluate", OVERRIDES), None).metrics
    with pytest.raises(DataError, match="needs the prompt of each image, which a folder of images does not"):
        metrics["clip_score"].update(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([-1]))


def test_what_is_missing_is_one_sentence(clip: Any) -> None:
    with pytest.raises(ConfigError, match=r"model=missing cannot be loaded \(no such model\); install"):
        OwnMetrics.of(
            compose_settings("evaluate", [*OVERRIDES, "metrics.clip_score.model=missing"]), (3, 64, 64)
        )
    with pytest.raises(ConfigError, match="needs prompts; choose a data set"):
        OwnMetrics.of(compose_settings("evaluate", ["metrics=clip"]), (1, 32, 32))
