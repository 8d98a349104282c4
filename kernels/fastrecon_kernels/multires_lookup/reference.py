"""Multi-resolution lookup in plain PyTorch: the definition (G3DR, section 3.3).

f(x) = sum over levels l of sample_triplane(G_l, x)
"""

from __future__ import annotations

from torch import Tensor

from ..settings import Axes
from ..triplane_sample import sample_triplane_reference


def sample_multires_reference(
    levels: tuple[Tensor, ...], points: Tensor, axes: Axes, reduction: str
) -> Tensor:
    """levels of (B, 3, C, H_l, W_l), points (B, ..., 3) in [-1, 1] -> (B, ..., 3C | C)."""
    total = sample_triplane_reference(levels[0], points, axes, reduction)
    for level in levels[1:]:
        total = total + sample_triplane_reference(level, points, axes, reduction)
    return total
