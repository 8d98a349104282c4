"""`sample_multires`: checks and the choice of backend.

The operator is that of `common/lookup_operator.py`, which serves `sample_triplane` as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..common.backend import double_unsupported, use_triton
from ..common.checks import check_levels, check_points, check_same_device
from ..settings import REDUCTIONS, Axes, check_axes, check_choice
from .reference import sample_multires_reference


def sample_multires(
    levels: Sequence[Tensor],
    points: Tensor,
    *,
    axes: Axes = ("xy", "xz", "yz"),
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Sum over the levels of a triplane pyramid of their bilinear features.

    Args:
        levels: planes (B, 3, C, H_l, W_l), any resolutions (see `build_pyramid`); differentiable.
        points: (B, ..., 3) positions, [-1, 1] inside; differentiable.
        axes: world axes of each plane, width axis first.
        reduction: "mean" (G3DR), "sum" or "concat" over the three planes.
        backend: "auto", "triton" or "reference".

    Returns:
        (B, ..., C), or (B, ..., 3C) for "concat"; fp32, or fp64 for fp64 input.

    Raises:
        TypeError, ValueError: for wrong types, shapes, devices or names, saying what to pass.
    """
    checked = check_levels(levels)
    points = check_points("points", points, checked[0].shape[0])
    device = check_same_device(levels=checked[0], points=points)
    check_axes(axes)
    check_choice("reduction", reduction, REDUCTIONS)
    if use_triton(backend, device, double_unsupported(checked[0], points)):
        from ..common.lookup_operator import sample_levels_triton

        return sample_levels_triton(checked, points, axes, reduction)
    return sample_multires_reference(checked, points, axes, reduction)
