"""What the training of ``scenes`` costs.

    python experiments/scenes_training/cost.py training.mask_ratio_min=0.25 training.full_mask_share=0.5

prints the parameters, and the mean FLOPs of a training image, forward and backward, over 40 drawn masks.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mar_accel.config.compose import compose_settings
from mar_accel.data.captions import NUM_WORD_CLASSES
from mar_accel.data.scene_classes import NUM_CLASSES
from mar_accel.data.scene_training import SceneBatches
from mar_accel.inference.build import build_autoencoder
from mar_accel.training.build import build_trained
from mar_accel.training.module import TrainingModule

BATCH_SIZE, STEPS = 4, 40


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def main(overrides: Sequence[str]) -> None:
    settings = compose_settings("train", ["model=scenes", "dataset=scenes", *overrides])
    torch.manual_seed(0)
    model, conditioner = build_trained(settings.model)
    print(f"parameters: {_millions(model):.2f} M, text encoder: {_millions(conditioner):.2f} M")
    autoencoder = build_autoencoder(settings.model)
    module = TrainingModule(model, conditioner, autoencoder, settings.training, NUM_CLASSES, NUM_WORD_CLASSES)
    # There is no Trainer that could log the loss.
    warnings.filterwarnings("ignore", message=".*self.log.*")
    batch = next(iter(SceneBatches(BATCH_SIZE, [0])))
    with FlopCounterMode(display=False) as counter:
        for step in range(STEPS):
            module.training_step(batch, step).backward()
    print(f"an image in training: {counter.get_total_flops() / (STEPS * BATCH_SIZE) / 1e9:.2f} GFLOPs")


if __name__ == "__main__":
    main(sys.argv[1:])
