"""Pictures of objects, as every renderer of training data gives them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Pictures(NamedTuple):
    """Pictures of objects; colour, depth and normal are means over a pixel's covered samples."""

    rgba: Tensor  # (B, V, 4, H, W) straight alpha, in [0, 1]; all zeros where nothing is covered
    depth: Tensor  # (B, V, H, W) distance from the camera
    normal: Tensor  # (B, V, 3, H, W) unit, world
