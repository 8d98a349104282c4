"""What every judge asks of pictures, and the one way in which they are resized."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def check_pictures(pictures: Tensor, name: str = "pictures", least: int = 1) -> None:
    """Raise ``ValueError`` unless they are (N, 3, H, W), floating, H and W at least ``least``."""
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(
            f"{name} must be (N, 3, H, W), got {tuple(pictures.shape)}; "
            "give one picture as picture[None]"
        )
    if not pictures.is_floating_point():
        raise ValueError(
            f"{name} must be floating point in [0, 1], got {pictures.dtype}; "
            "divide 8-bit values by 255"
        )
    if min(pictures.shape[-2:]) < least:
        raise ValueError(
            f"{name} must be at least {least} x {least} pixels, got {tuple(pictures.shape)}; "
            "render them larger"
        )


def check_pair(pictures: Tensor, target: Tensor, least: int = 1) -> None:
    """As `check_pictures`, of both; nothing is broadcast, which would hide mistakes."""
    check_pictures(pictures, "pictures", least)
    check_pictures(target, "target", least)
    if pictures.shape != target.shape:
        raise ValueError(
            "pictures and target must have the same shape, got "
            f"{tuple(pictures.shape)} and {tuple(target.shape)}"
        )


def to_side(pictures: Tensor, side: int) -> Tensor:
    """Square pictures (N, 3, S, S) resized to ``side``: bilinear, antialiased where they shrink.

    Enlarged, the antialiased resize is the plain one, which has a deterministic backward on CUDA.
    """
    height, width = pictures.shape[-2:]
    if height != width:
        raise ValueError(
            f"pictures that are resized must be square, got {height} x {width}; pad them with "
            "their background, or crop them"
        )
    if height == side:
        return pictures
    return F.interpolate(
        pictures, (side, side), mode="bilinear", align_corners=False, antialias=side < height
    )
