"""Device functions of volume rendering: density, opacity, depth kernel, prefix shifts.

Shapes are those of one chunk of samples in a program, (BLOCK_R, BLOCK_S), fp32. The rules are those
of ``composite/reference.py``; ACTIVATION is one of `settings.DENSITY_ACTIVATIONS`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .device import sigmoid, softplus


@triton.jit
def density(x, ACTIVATION: tl.constexpr):
    """act(x) >= 0, before the scale."""
    if ACTIVATION == "trunc_exp":
        return tl.exp(x)
    elif ACTIVATION == "exp":
        return tl.exp(tl.minimum(x, 80.0))
    elif ACTIVATION == "softplus":
        return softplus(x)
    else:
        return tl.maximum(x, 0.0)


@triton.jit
def density_slope(x, ACTIVATION: tl.constexpr):
    """d act(x) / dx, finite for every x."""
    if ACTIVATION == "trunc_exp":
        return tl.exp(tl.minimum(x, 15.0))
    elif ACTIVATION == "exp":
        return tl.where(x > 80.0, 0.0, tl.exp(tl.minimum(x, 80.0)))
    elif ACTIVATION == "softplus":
        return sigmoid(x)
    else:
        return tl.where(x > 0.0, 1.0, 0.0)


@triton.jit
def optical_depth(x, length, scale, ACTIVATION: tl.constexpr):
    """sigma * length; an interval of no length has none, however dense it is."""
    return tl.where(length == 0.0, 0.0, scale * density(x, ACTIVATION)) * length


@triton.jit
def opacity_of(tau):
    """1 - exp(-tau) with the digits of a small tau."""
    series = 1.0 + tau * (-1.0 / 2 + tau * (1.0 / 6 + tau * (-1.0 / 24 + tau * (1.0 / 120))))
    return tl.where(tl.abs(tau) < 0.1, tau * series, 1.0 - tl.exp(-tau))


@triton.jit
def depth_kernel_weight(t, prior, s1, s2, c_min, c_max):
    """k(t, prior) of `depth_kernel`; 1 where the prior is NaN."""
    k = s1 * tl.exp(-(t - prior) * (t - prior) / s2)
    return tl.where(prior == prior, tl.minimum(tl.maximum(k, c_min), c_max), 1.0)


@triton.jit
def shift_right(x, first):
    """Columns ``first (BLOCK_R,), x_0, x_1, ...``: an inclusive prefix becomes an exclusive one."""
    column = tl.arange(0, x.shape[1])[None, :]
    index = tl.broadcast_to(tl.maximum(column - 1, 0), x.shape)
    return tl.where(column == 0, first[:, None], tl.gather(x, index, 1))


@triton.jit
def shift_left(x, last):
    """Columns ``..., x_{n-2}, x_{n-1}, last (BLOCK_R,)`` without the first."""
    end = x.shape[1] - 1
    column = tl.arange(0, x.shape[1])[None, :]
    index = tl.broadcast_to(tl.minimum(column + 1, end), x.shape)
    return tl.where(column == end, last[:, None], tl.gather(x, index, 1))
