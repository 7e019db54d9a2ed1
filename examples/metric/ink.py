"""A metric of one's own: the mean brightness of all images, and how much it varies."""

import torch
from torchmetrics import Metric


class Ink(Metric):
    """Mean and standard deviation over images of their mean pixel, 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Images uint8 [B, C, H, W] and their labels [B]."""
        brightness = images.double().flatten(1).mean(dim=1) / 255
        self.total += brightness.sum()
        self.squares += brightness.square().sum()
        self.count += len(images)

    def compute(self) -> dict[str, torch.Tensor]:
        mean = self.total / self.count
        return {"mean": mean, "std": (self.squares / self.count - mean**2).clamp(min=0).sqrt()}
