"""Small things to judge, and a small network to judge them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrecon.perceptual.clip import TowerSize

SMALL = TowerSize(image_size=32, patch_size=8, width=64, layers=2, heads=1, features=16)
"""A CLIP vision tower in miniature (open_clip's heads are 64 wide)."""


def pictures(seed: int, n: int = 2, size: int = 32) -> Tensor:
    """Random pictures (n, 3, size, size) in [0, 1]."""
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
