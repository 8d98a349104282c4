"""`sample_triplane`: checks and the choice of backend.

The operator is that of `common/lookup_operator.py`, which serves `sample_multires` as well.
"""

from __future__ import annotations

from torch import Tensor

from ..common.backend import double_unsupported, use_triton
from ..common.checks import check_planes, check_points, check_same_device
from ..settings import REDUCTIONS, Axes, check_axes, check_choice
from .reference import sample_triplane_reference


def sample_triplane(
    planes: Tensor,
    points: Tensor,
    *,
    axes: Axes = ("xy", "xz", "yz"),
    reduction: str = "concat",
    backend: str = "auto",
) -> Tensor:
    """Bilinear triplane features with zero padding and ``align_corners=False``.

    Args:
        planes: (B, 3, C, H, W) feature planes; any C; differentiable.
        points: (B, ..., 3) positions, [-1, 1] inside; differentiable.
        axes: world axes of each plane, width axis first.
        reduction: "concat" (plane-major), "sum" or "mean" over the three planes.
        backend: "auto", "triton" or "reference".

    Returns:
        (B, ..., 3C) for "concat", else (B, ..., C); fp32, or fp64 for fp64 input.

    Raises:
        TypeError, ValueError: for wrong types, shapes, devices or names, saying what to pass.
    """
    planes = check_planes("planes", planes)
    points = check_points("points", points, planes.shape[0])
    device = check_same_device(planes=planes, points=points)
    check_axes(axes)
    check_choice("reduction", reduction, REDUCTIONS)
    if use_triton(backend, device, double_unsupported(planes, points)):
        from ..common.lookup_operator import sample_levels_triton

        return sample_levels_triton((planes,), points, axes, reduction)
    return sample_triplane_reference(planes, points, axes, reduction)
