"""Trains the feature network for images of scenes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel.config.settings import FeatureTrainingSettings
from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scenes import draw_scene
from mar_accel.metrics.scene_features import SceneNetwork, SceneTargets
from mar_accel.utils.progress import progress

# Scenes of an epoch, and of the measurement.
EPOCH, MEASURED = 4096, 4096


def train_scene_network(
    trained_on: Tensor, held_out: Tensor, settings: FeatureTrainingSettings, generator: torch.Generator
) -> tuple[SceneNetwork, dict[str, float]]:
    """Train a network to read scenes that are drawn with some of the scans; no scene is drawn twice.

    Args:
        trained_on, held_out: numbers of scans to train with, and to measure with.
        settings: settings of the training; an epoch has 4,096 scenes.
        generator: source of randomness.

    Returns:
        The network in evaluation mode, and its accuracies on scenes with held-out scans.
    """
    # Convolutions are a quarter faster in this layout.
    network = SceneNetwork()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = settings.epochs * (EPOCH // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    drawer, rng = SceneDrawer(trained_on), _rng(generator)
    for _ in progress(range(steps), "training"):
        images, targets = _batch(drawer, settings.batch_size, rng)
        loss = _loss(network, images, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network, accuracies(network, SceneDrawer(held_out), rng)


def _rng(generator: torch.Generator) -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))


def _batch(drawer: SceneDrawer, count: int, rng: np.random.Generator) -> tuple[Tensor, SceneTargets]:
    scenes = [draw_scene(rng) for _ in range(count)]
    # As in a PNG.
    images = (drawer(scenes, rng) * 255).round() / 255
    return images.to(memory_format=torch.channels_last), SceneTargets.of(scenes)


def _loss(network: SceneNetwork, images: Tensor, targets: SceneTargets) -> Tensor:
    background, pattern, layout, objects = network.read(network(images))
    return (
        F.cross_entropy(background, targets.background)
        + F.cross_entropy(pattern, targets.pattern)
        + F.cross_entropy(layout, targets.layout)
        # The sum over the 60 combinations of digit and colour, of which at most two are there.
        + F.binary_cross_entropy_with_logits(objects, targets.objects, reduction="sum") / len(images)
    )


@torch.inference_mode()
def accuracies(network: SceneNetwork, drawer: SceneDrawer, rng: np.random.Generator) -> dict[str, float]:
    """Shares of scenes that are read rightly, 0..1: background, pattern, layout, and all objects."""
    images, targets = _batch(drawer, MEASURED, rng)
    features = torch.cat([network(part) for part in images.split(256)])
    background, pattern, layout, objects = network.read(features)
    right = {
        "background": background.argmax(1) == targets.background,
        "pattern": pattern.argmax(1) == targets.pattern,
        "layout": layout.argmax(1) == targets.layout,
        "objects": ((objects > 0) == targets.objects.bool()).all(1),
    }
    return {f"accuracy_{name}_held_out": float(share.float().mean()) for name, share in right.items()}
