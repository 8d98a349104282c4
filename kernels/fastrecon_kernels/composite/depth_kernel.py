"""G3DR's depth kernel: weights, and the gradient scaling that it stands for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.checks import compute_dtype


def depth_kernel(
    t: Tensor,
    depth: Tensor,
    *,
    s1: float = 1.25,
    s2: float = 0.03,
    c_min: float = 0.05,
    c_max: float = 1.0,
) -> Tensor:
    """``k(t, d) = clamp(s1 exp(-(t - d)^2 / s2), c_min, c_max)`` (G3DR, supplementary S.1).

    Args:
        t: ray parameters, any shape.
        depth: known depths in the same unit, broadcastable to ``t``; NaN means unknown, k = 1.

    Returns:
        The weights, in the shape of ``t - depth``, fp32 at least; no gradient is meant to pass
        through them.
    """
    t, depth = t.to(compute_dtype(t)), depth.to(compute_dtype(depth))
    k = (s1 * torch.exp(-((t - depth) ** 2) / s2)).clamp(c_min, c_max)
    return torch.where(torch.isnan(depth), torch.ones_like(k), k)


class ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by ``k``: a preconditioner, not a loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(k)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (k,) = ctx.saved_tensors
        return grads[0] * k, None
