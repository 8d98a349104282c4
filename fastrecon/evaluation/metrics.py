"""Picture metrics, one number per picture, as the papers of the field report them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import psnr_from_mse


def psnr(pictures: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB.

    Args:
        pictures, target: ``(..., C, H, W)`` in [0, 1].

    Returns:
        ``(...)``, one value per picture; at most 100 dB. Average these, not the errors.
    """
    _check(pictures, target)
    return psnr_from_mse((pictures.float() - target.float()).square().mean((-3, -2, -1)))


def ssim(pictures: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) with a 7 x 7 uniform window and range 1.

    Sample covariance, K = (0.01, 0.03), windows that lie wholly inside the picture, mean over
    windows and channels: what ``skimage.metrics.structural_similarity`` computes by default.

    Args:
        pictures, target: ``(..., C, H, W)`` in [0, 1], at least 7 x 7.

    Returns:
        ``(...)``, one value per picture, at most 1.
    """
    _check(pictures, target)
    window = 7
    if min(pictures.shape[-2:]) < window:
        raise ValueError(f"ssim needs pictures of at least 7 x 7, got {tuple(pictures.shape)}")
    # in fp64: variances are differences of nearly equal numbers
    x = pictures.double().flatten(0, -4) if pictures.ndim > 3 else pictures.double()[None]
    y = target.double().flatten(0, -4) if target.ndim > 3 else target.double()[None]

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, stride=1)

    unbiased = window**2 / (window**2 - 1)
    mean_x, mean_y = mean(x), mean(y)
    var_x = unbiased * (mean(x * x) - mean_x * mean_x)
    var_y = unbiased * (mean(y * y) - mean_y * mean_y)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2)
    )
    return similarity.mean((-3, -2, -1)).reshape(pictures.shape[:-3]).to(torch.float32)


def _check(pictures: Tensor, target: Tensor) -> None:
    if pictures.ndim < 3 or pictures.shape != target.shape:
        raise ValueError(
            "pictures and target must both be (..., C, H, W) of one shape, got "
            f"{tuple(pictures.shape)} and {tuple(target.shape)}"
        )
