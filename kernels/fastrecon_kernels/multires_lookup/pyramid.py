"""The pyramid that `sample_multires` reads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..common.checks import check_planes


def build_pyramid(planes: Tensor, n_levels: int = 3) -> tuple[Tensor, ...]:
    """Antialiased bilinear 1/2, 1/4, ... of the planes, each taken from the first (G3DR, 3.3).

    The separable filters are [1, 3, 3, 1]/8 and [1, 3, 5, 7, 7, 5, 3, 1]/32, renormalised at the
    borders: neither average pooling nor a halving of the level before.

    Args:
        planes: (B, 3, C, H, W); differentiable.
        n_levels: levels, the planes themselves included.

    Returns:
        ``n_levels`` tensors (B, 3, C, H / 2^l, W / 2^l) in the planes' dtype, finest first.
    """
    planes = check_planes("planes", planes)
    if n_levels < 1:
        raise ValueError(f"n_levels must be at least 1, got {n_levels}")
    height, width = planes.shape[-2:]
    shrink = 2 ** (n_levels - 1)
    if height % shrink or width % shrink:
        raise ValueError(
            f"{n_levels} levels need plane sides divisible by {shrink}, got {height} x {width}; "
            "ask for fewer levels or resize the planes"
        )
    flat = planes.flatten(0, 1)
    levels = [planes]
    for level in range(1, n_levels):
        size = (height >> level, width >> level)
        # Half precision has no antialiased CPU kernel for every build; fp32 is exact enough.
        source = flat if flat.dtype.itemsize >= 4 else flat.float()
        small = F.interpolate(
            source, size=size, mode="bilinear", align_corners=False, antialias=True
        )
        levels.append(small.to(planes.dtype).unflatten(0, planes.shape[:2]))
    return tuple(levels)
