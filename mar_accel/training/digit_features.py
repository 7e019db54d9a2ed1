"""Trains the feature network for images of digits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel.config.settings import FeatureTrainingSettings
from mar_accel.data.digits import load_scans, random_affine, render, to_scans
from mar_accel.metrics.digit_features import DigitNetwork
from mar_accel.utils.progress import progress


def augmented(scans: Tensor, generator: torch.Generator) -> Tensor:
    """Scans with small random rotations, shears and shifts.

    They are rendered at 32×32 and reduced again, like generated images.
    """
    return to_scans(render(scans, random_affine(len(scans), generator)))


def train_network(
    scans: Tensor, labels: Tensor, settings: FeatureTrainingSettings, generator: torch.Generator
) -> DigitNetwork:
    """Train a network on scans; half of each batch is original, half is augmented.

    Args:
        scans: [N, 1, 8, 8] in 0..1.
        labels: [N].
        settings: settings of the training.
        generator: source of the random order and augmentation.
    """
    network = DigitNetwork()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = settings.epochs * (len(scans) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    for _ in progress(range(settings.epochs), "training", unit="epochs"):
        order = torch.randperm(len(scans), generator=generator)
        for chosen in order.split(settings.batch_size):
            if len(chosen) < settings.batch_size:
                continue
            half = len(chosen) // 2
            batch = torch.cat([scans[chosen[:half]], augmented(scans[chosen[half:]], generator)])
            _, logits = network(batch)
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def accuracy(network: DigitNetwork, scans: Tensor, labels: Tensor) -> float:
    """Share of the scans whose most likely class is their label; 0..1."""
    return float((network(scans)[1].argmax(dim=1) == labels).float().mean())


def train_digit_network(
    trained_on: Tensor, held_out: Tensor, settings: FeatureTrainingSettings, generator: torch.Generator
) -> tuple[DigitNetwork, dict[str, float]]:
    """Train a network on some of the scans, and measure it on the others.

    Args:
        trained_on, held_out: numbers of the scans.
        settings: settings of the training; an epoch is a pass over the scans.
        generator: source of the random order and augmentation.

    Returns:
        The network in evaluation mode, and its accuracies.
    """
    scans, labels = load_scans()
    network = train_network(scans[trained_on], labels[trained_on], settings, generator)
    return network, {
        "accuracy_trained_on": accuracy(network, scans[trained_on], labels[trained_on]),
        "accuracy_held_out": accuracy(network, scans[held_out], labels[held_out]),
        # Eight augmented copies of each scan, rendered at 32×32 and reduced, like generated images.
        "accuracy_held_out_augmented": accuracy(
            network, augmented(scans[held_out].repeat(8, 1, 1, 1), generator), labels[held_out].repeat(8)
        ),
    }
