"""Picture metrics, one number per picture, as the papers of the field report them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..losses import psnr_from_mse
from ..perceptual.ssim import ssim_map


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
    # in fp64: variances are differences of nearly equal numbers
    x, y = (value.double().reshape(-1, *value.shape[-3:]) for value in (pictures, target))
    similarity = ssim_map(x, y)
    return similarity.mean((-3, -2, -1)).reshape(pictures.shape[:-3]).to(torch.float32)


def _check(pictures: Tensor, target: Tensor) -> None:
    if pictures.ndim < 3 or pictures.shape != target.shape:
        raise ValueError(
            "pictures and target must both be (..., C, H, W) of one shape, got "
            f"{tuple(pictures.shape)} and {tuple(target.shape)}"
        )
