"""Pure loss terms: tensors in, a tensor out, no weights, no state.

Terms on rendered rays give one scalar, ``...`` being any number of object, view and ray dimensions;
terms on features give one value per picture. A term is differentiable in its first argument.
Weights and the choice of terms belong to the objectives.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rgb_mse(rgb: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of colours ``(..., 3)`` in [0, 1] (Real3D, Eq. 1, first term)."""
    _same_shape("rgb", rgb, target)
    return (rgb - target).square().mean()


def mask_mse(opacity: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of opacity ``(...)`` against the object's mask in [0, 1]."""
    _same_shape("opacity", opacity, mask)
    return (opacity - mask).square().mean()


def depth_l1(depth: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error of depth ``(...)``, in scene units, over the rays that hit the object.

    ``mask`` ``(...)`` weighs the rays; where it is 0 the target is not read. Without a hit the
    loss is 0, with a gradient of 0.
    """
    _same_shape("depth", depth, target)
    _same_shape("mask", mask, target)
    error = torch.where(mask > 0, (depth - target).abs() * mask, depth.new_zeros(()))
    return error.sum() / mask.sum().clamp_min(1.0)


def clip_similarity_loss(features: Tensor, target: Tensor) -> Tensor:
    """``-<f, g>`` of unit features ``(..., D)`` -> ``(...)``, from -1 (the same) to 1.

    Real3D, section 4.1, L_CLIP.
    """
    _same_shape("features", features, target)
    return -(features * target).sum(-1)


def hardest_view(similarities: Tensor) -> Tensor:
    """Index ``(B,)`` of the least similar of ``(B, m)`` views: the one L_sem is of (Eq. 9)."""
    if similarities.ndim != 2 or similarities.shape[1] == 0:
        raise ValueError(
            f"similarities must be (B, m) with m at least 1, got {tuple(similarities.shape)}; "
            "give one row per object, one column per view"
        )
    return similarities.argmin(dim=1)


def plane_tv(planes: Tensor) -> Tensor:
    """Mean squared step between neighbouring texels of ``(B, 3, C, P, P)``, rows plus columns.

    OpenLRM's total variation, 5e-4 of which it adds to its loss.
    """
    if planes.ndim != 5 or min(planes.shape[-2:]) < 2:
        raise ValueError(
            f"planes must be (B, 3, C, P, P) with P at least 2, got {tuple(planes.shape)}; add a "
            "batch dimension with planes[None]"
        )
    return planes.diff(dim=-2).square().mean() + planes.diff(dim=-1).square().mean()


def psnr_from_mse(mse: Tensor) -> Tensor:
    """``-10 log10(mse)`` in dB for values in [0, 1]; a perfect picture counts as 100 dB."""
    return -10.0 * torch.log10(mse.clamp_min(1e-10))


def _same_shape(name: str, value: Tensor, target: Tensor) -> None:
    if value.shape != target.shape:
        raise ValueError(
            f"{name} {tuple(value.shape)} and its target {tuple(target.shape)} must have the same "
            "shape; reshape one of them (nothing is broadcast, which would hide mistakes)"
        )
