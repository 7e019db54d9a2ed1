"""Inception Score: how confident the classifier is for each image, and how varied the classes are.

Source: Salimans et al., Improved Techniques for Training GANs (arXiv:1606.03498).
"""

from __future__ import annotations

import torch
from torch import Tensor


def inception_score(logits: Tensor, num_splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Inception Score exp(mean KL(p(y|x) ‖ p(y))): mean and standard deviation over splits.

    The images are shuffled first, since they may be sorted by class.

    Args:
        logits: [N, classes].
        num_splits: number of splits, equal in size up to one image; at most N are used.
        seed: seed of the shuffling.
    """
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    log_p = logits.double().log_softmax(dim=1)[order]
    scores = []
    for split in log_p.tensor_split(min(num_splits, len(logits))):
        log_marginal = split.logsumexp(dim=0) - torch.log(torch.tensor(len(split), dtype=torch.float64))
        divergence = (split.exp() * (split - log_marginal)).sum(dim=1)
        scores.append(divergence.mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))
