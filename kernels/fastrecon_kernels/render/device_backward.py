"""Device functions of the field's backward pass; shapes and products as in `device.py`."""

# Triton types constexpr parameters as objects.
# pyright: reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl

from ..common.device import sigmoid, softplus


@triton.jit
def ray_points(rays_o_ptr, rays_d_ptr, ts_ptr, rays, samples, mask, ALONG_RAYS: tl.constexpr):
    """Positions x, y, z (M,) in scene units of ``samples`` on ``rays``, 0 where masked."""
    row = rays.to(tl.int64) * 3
    x = tl.load(rays_o_ptr + row, mask=mask, other=0.0)
    y = tl.load(rays_o_ptr + row + 1, mask=mask, other=0.0)
    z = tl.load(rays_o_ptr + row + 2, mask=mask, other=0.0)
    if ALONG_RAYS:
        t = tl.load(ts_ptr + samples, mask=mask, other=0.0)
        x += t * tl.load(rays_d_ptr + row, mask=mask, other=0.0)
        y += t * tl.load(rays_d_ptr + row + 1, mask=mask, other=0.0)
        z += t * tl.load(rays_d_ptr + row + 2, mask=mask, other=0.0)
    return x, y, z


@triton.jit
def activate_and_derive(z, ACTIVATION: tl.constexpr, APPROX: tl.constexpr):
    """Activation of z and its derivative, which share what is costly."""
    if ACTIVATION == "silu":
        s = sigmoid(z, APPROX)
        return z * s, s + z * s * (1.0 - s)
    elif ACTIVATION == "relu":
        return tl.maximum(z, 0.0), tl.where(z > 0.0, 1.0, 0.0)
    else:
        return softplus(z, APPROX), sigmoid(z, APPROX)


@triton.jit
def apply_transposed(d, w, PRECISION: tl.constexpr):
    """d w^T: the gradient of x in `apply_weight`."""
    return tl.dot(d.to(w.dtype), tl.trans(w), input_precision=PRECISION)


@triton.jit
def weight_gradient(x, d, w, PRECISION: tl.constexpr):
    """x^T d: the gradient of w in `apply_weight`, over the samples of a tile."""
    return tl.dot(tl.trans(x.to(w.dtype)), d.to(w.dtype), input_precision=PRECISION)


@triton.jit
def output_gradient(
    raw_ptr,
    rgb_ptr,
    d_raw_ptr,
    d_rgb_ptr,
    samples,
    mask,
    rgb_padding,
    N_OUT: tl.constexpr,
    OUT: tl.constexpr,
):
    """Gradient (M, OUT) of the last layer's result from those of the records; 0 where empty."""
    column = tl.arange(0, OUT)
    present = mask & (tl.load(raw_ptr + samples, mask=mask, other=0.0) != -float("inf"))
    d_raw = tl.load(d_raw_ptr + samples, mask=present, other=0.0)
    offsets = samples.to(tl.int64)[:, None] * (N_OUT - 1) + column[None, :] - 1
    coloured = present[:, None] & ((column >= 1) & (column < N_OUT))[None, :]
    span = 1.0 + 2.0 * rgb_padding
    s = (tl.load(rgb_ptr + offsets, mask=coloured, other=0.0) + rgb_padding) / span
    d_rgb = tl.load(d_rgb_ptr + offsets, mask=coloured, other=0.0)
    d_logit = tl.where(coloured, d_rgb * span * s * (1.0 - s), 0.0)
    return tl.where((column == 0)[None, :], d_raw[:, None], d_logit)


@triton.jit
def z_gradient(
    grad_ptr,
    raw_ptr,
    rgb_ptr,
    d_raw_ptr,
    d_rgb_ptr,
    samples,
    mask,
    rgb_padding,
    ONE_LAYER: tl.constexpr,
    N_OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    MASKED: tl.constexpr = True,
):
    """Gradient (M, WIDTH) of z_0: as the layers' backward kernels left it, or of the only layer.

    Without MASKED, samples that are masked must exist, and their gradients are those of others.
    """
    if ONE_LAYER:
        return output_gradient(
            raw_ptr, rgb_ptr, d_raw_ptr, d_rgb_ptr, samples, mask, rgb_padding, N_OUT, WIDTH
        )
    else:
        offsets = samples.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        if MASKED:
            return tl.load(grad_ptr + offsets, mask=mask[:, None], other=0.0)
        else:
            return tl.load(grad_ptr + offsets)


@triton.jit
def add_to_texels(ptr, value, unit, mask, EXACT: tl.constexpr):
    """Add fp32 values to sums in memory; with EXACT in whole numbers of 1 / unit.

    Whole numbers have the same sum in any order.
    """
    if EXACT:
        tl.atomic_add(ptr, (value * unit).to(tl.int64), mask=mask, sem="relaxed")
    else:
        tl.atomic_add(ptr, value, mask=mask, sem="relaxed")


@triton.jit
def patch_samples(
    tile,
    slots,
    n_rays,
    samples_per_ray,
    columns,
    lead,
    across,
    deep,
    PATCH_W: tl.constexpr,
    PATCH_H: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Rays, flat samples and mask (M,) of a tile of neighbouring rays and samples.

    What is masked stands for a sample that exists.

    Args:
        tile: counted along the ray first, then along the picture's rows.
        slots: (M,) places in the tile, again counted along the ray first.
        columns, lead: rays in a row of the picture, and rays of its first row that are not here.
        across, deep: tiles in a row, tiles along a ray.
    """
    patch = tile // deep
    depth = tile % deep * DEPTH
    column = patch % across * PATCH_W
    first = patch // across * PATCH_H * columns + column - lead
    # What belongs to slots alone is the same for all tiles.
    depths, right = slots % DEPTH, slots // DEPTH % PATCH_W
    further = slots // (DEPTH * PATCH_W) * columns + right
    rays = first + further
    mask = (right < columns - column) & (depths < samples_per_ray - depth)
    mask = mask & (rays >= 0) & (rays < n_rays)
    samples = (first * samples_per_ray + depth) + (further * samples_per_ray + depths)
    samples = tl.minimum(tl.maximum(samples, 0), n_rays * samples_per_ray - 1)
    return rays, samples, mask
