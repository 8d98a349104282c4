"""What G3DR's tables measure of depth maps: flatness, accuracy (supplement, S.5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NFS_BINS = 64
LOG_EPS = 1e-12


def non_flatness(depth: Tensor, depth_range: Sequence[float]) -> Tensor:
    """Non-flatness score of depth maps (3DGP): ``exp`` of the entropy of their histogram.

    Args:
        depth: (N, H, W) distances.
        depth_range: near and far, the histogram's ends; values beyond count in the end bins.

    Returns:
        (N,), from 1 (flat) to 64 (all distances alike frequent); papers report the mean of 256
        frontal maps. The published Eq. 2 has lost its logarithm.
    """
    _check(depth)
    near, far = depth_range
    share = ((depth.double() - near) / (far - near)).clamp(0.0, 1.0)
    bins = (share * NFS_BINS).long().clamp(max=NFS_BINS - 1).flatten(1)
    counts = torch.zeros(len(depth), NFS_BINS, dtype=torch.double, device=depth.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.double))
    p = counts / bins.shape[1]
    return (-(p * (p + LOG_EPS).log()).sum(1)).exp().float()


def depth_accuracy(depth: Tensor, target: Tensor) -> Tensor:
    """MSE of depth maps after each is given mean 0 and standard deviation 1; lower is better.

    Args:
        depth, target: (N, H, W).

    Returns:
        (N,), 0 for the same shape up to scale and shift, 2 for unrelated maps. A flat map has no
        shape and counts as unrelated, 1 + 1.
    """
    _check(depth)
    if depth.shape != target.shape:
        raise ValueError(
            f"depth {tuple(depth.shape)} and target {tuple(target.shape)} must have the same shape"
        )
    (x, flat), (y, other) = _standardised(depth), _standardised(target)
    error = (x - y).square().mean(1)
    return torch.where(flat | other, torch.full_like(error, 2.0), error).float()


def _standardised(depth: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (N, H W) with mean 0 and standard deviation 1, and which of them are flat."""
    x = depth.double().flatten(1)
    x = x - x.mean(1, keepdim=True)
    deviation = x.square().mean(1, keepdim=True).sqrt()
    flat = deviation[:, 0] < 1e-9
    return x / deviation.clamp_min(1e-9), flat


def _check(depth: Tensor) -> None:
    if depth.ndim != 3 or not depth.numel():
        raise ValueError(
            f"depth maps must be (N, H, W) and not empty, got {tuple(depth.shape)}; one map is "
            "depth[None]"
        )
    if not depth.is_floating_point():
        raise TypeError(f"depth maps must be floating point, got {depth.dtype}")
