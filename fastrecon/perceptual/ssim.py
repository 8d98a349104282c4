"""Structural similarity, and the distance made of it that needs no network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .pictures import check_pair

WINDOW = 7
"""Side of the uniform window, pixels."""
C1, C2 = 0.01**2, 0.03**2


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of every 7 x 7 window that lies inside.

    Sample covariance, uniform window, K = (0.01, 0.03), range 1: what
    ``skimage.metrics.structural_similarity`` computes by default. In the dtype of the input:
    variances are differences of nearly equal numbers, so give fp64 where digits matter.

    Args:
        x, y: (N, C, H, W) in [0, 1], at least 7 x 7.

    Returns:
        (N, C, H - 6, W - 6), at most 1; differentiable in both.
    """
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"ssim needs pictures of at least 7 x 7, got {tuple(x.shape)}")

    def mean(values: Tensor) -> Tensor:
        # pooling, not convolution: neither autocast nor TF32 takes digits from it
        return F.avg_pool2d(values, WINDOW, stride=1)

    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    mean_x, mean_y = mean(x), mean(y)
    var_x = unbiased * (mean(x * x) - mean_x * mean_x)
    var_y = unbiased * (mean(y * y) - mean_y * mean_y)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    return ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)) / (
        (mean_x * mean_x + mean_y * mean_y + C1) * (var_x + var_y + C2)
    )


def l1_ssim(pictures: Tensor, target: Tensor) -> Tensor:
    """L1 + 1 - SSIM of pictures (N, 3, H, W) in [0, 1], at least 7 x 7 -> (N,), in fp32.

    From 0 (equal) to 3; differentiable in both.
    """
    check_pair(pictures, target, least=WINDOW)
    x, y = pictures.float(), target.float()
    return (x - y).abs().mean((1, 2, 3)) + 1.0 - ssim_map(x, y).mean((1, 2, 3))
