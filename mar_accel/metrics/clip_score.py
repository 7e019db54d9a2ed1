"""CLIP score: how well images agree with their prompts, by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from mar_accel.errors import ConfigError, DataError


class ClipScore(Metric):
    """Mean of 100 · cosine between CLIP's embeddings of image and prompt, at least 0 for each image.

    Needs transformers (extra ``text``), and downloads CLIP (about 0.6 GB for the default).

    Args:
        prompts: the prompts of the data set; labels are their numbers.
        model: Hub repository id or folder of a CLIP model.

    Raises:
        ConfigError: there are no prompts, or the model cannot be loaded.

    Example:
        >>> score = ClipScore(["a red seven"])
        >>> score.update(images, torch.tensor([0, 0]))  # uint8 [2, 3, H, W]
    """

    full_state_update = False

    def __init__(self, prompts: Sequence[str] | None, model: str = "openai/clip-vit-base-patch16"):
        super().__init__()
        if not prompts:
            raise ConfigError("metrics.clip_score needs prompts; choose a data set such as dataset=prompts.")
        self.prompts = tuple(prompts)
        try:
            from torchmetrics.multimodal import CLIPScore

            name: Any = model
            self.score = CLIPScore(model_name_or_path=name)
        except Exception as error:  # missing packages, no connection, or another kind of model
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ConfigError(
                f"metrics.clip_score.model={model} cannot be loaded ({reason}); install the extra text, and "
                "name a CLIP model on the Hub or in a folder."
            ) from error

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Add images uint8 [B, 3, H, W] of prompts [B]; raises DataError if a prompt is unknown (−1)."""
        if bool((labels < 0).any()):
            raise DataError(
                "metrics.clip_score needs the prompt of each image, which a folder of images does not have; "
                "evaluate a run folder."
            )
        self.score.update(list(images), [self.prompts[label] for label in labels.tolist()])

    def compute(self) -> Tensor:
        """The mean over all images."""
        return self.score.compute()

    def reset(self) -> None:
        super().reset()
        self.score.reset()
