"""Inception score: are pictures clearly of something, and of many things (Salimans et al. 2016)?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SPLITS = 10


class InceptionScore(NamedTuple):
    """Mean and standard deviation over splits."""

    mean: float
    deviation: float
    pictures: int


def inception_score(logits: Tensor, splits: int = SPLITS) -> InceptionScore:
    """``exp(mean KL(p(y|x) || p(y)))``, p(y) the mean of p(y|x), in each of ``splits`` parts.

    Args:
        logits: (N, classes) of Inception without the last layer's bias, in random order: parts are
            taken as they come, and one that holds a few classes only scores low.
        splits: parts of nearly equal size; the last rows go to the first parts.

    Returns:
        From 1 (every picture alike) to the number of classes. The deviation is over the parts.

    Raises:
        ValueError: fewer pictures than parts, or values that are not finite.
    """
    if logits.ndim != 2 or splits < 1 or len(logits) < splits:
        raise ValueError(
            f"logits must be (N, classes) with at least one row for each of the {splits} splits, "
            f"got {tuple(logits.shape)}"
        )
    if not torch.isfinite(logits).all():
        raise ValueError("the logits are not finite; look for NaN in the pictures")
    log_p = logits.double().log_softmax(1)
    scores = []
    for part in log_p.tensor_split(splits):
        p = part.exp()
        marginal = p.mean(0, keepdim=True)
        log_marginal = marginal.clamp_min(torch.finfo(torch.double).tiny).log()
        scores.append((p * (part - log_marginal)).sum(1).mean().exp())
    values = torch.stack(scores)
    return InceptionScore(float(values.mean()), float(values.std(correction=0)), len(logits))
