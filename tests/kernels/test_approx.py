"""What NVIDIA's approximate arithmetic costs: the kernels' bf16 path step by step in torch.

The interpreter has no inline assembly, so the formulas behind ``APPROX`` are written out here,
with every rounding to bf16 where `common/quads.py` and `common/device.py` round.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.workloads import WORKLOADS, Workload

SAMPLES = 4096


def rounded(x: Tensor) -> Tensor:
    """bf16 values as fp64."""
    return x.bfloat16().double()


def axis_taps(size: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `common.quads.axis_taps`: first texel and the weights of it and the next one."""
    x = u * (size / 2) + (size / 2 - 0.5)
    first = x.floor().clamp(0, size - 2)
    weights = [(1 - (x - first - i).abs()).clamp_min(0) for i in (0, 1)]
    return first.long(), weights[0], weights[1]


def add_quad(total: Tensor, plane: Tensor, u: Tensor, v: Tensor, approx: bool) -> Tensor:
    """total + bilinear features (M, C) of a plane (C, H, W): exact, or in packed bf16."""
    column, left, right = axis_taps(plane.shape[2], u)
    line, upper, lower = axis_taps(plane.shape[1], v)
    texels = [plane[:, line + i // 2, column + i % 2].T for i in range(4)]
    if approx:
        pair = [rounded(left), rounded(right)]
        weights = [rounded(x * rounded(y)) for y in (upper, lower) for x in pair]
    else:
        weights = [left * upper, right * upper, left * lower, right * lower]
    for weight, texel in zip(weights, texels, strict=True):
        total = total + weight[:, None] * (rounded(texel) if approx else texel)
        total = rounded(total) if approx else total
    return total


def tanh_approx(x: Tensor) -> Tensor:
    """tanh with as much noise as ``tanh.approx.f32`` may have."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return torch.tanh(x) * (1 + 2**-11 * (2 * noise - 1))


def silu(z: Tensor) -> Tensor:
    h = z / 2
    return h + h * tanh_approx(h)


def softplus(z: Tensor) -> Tensor:
    e = torch.exp2(-z.float().abs() * math.log2(math.e))
    return z.clamp_min(0) + math.log(2) * torch.log2(1 + e).double()


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "A": (F.silu, silu),
    "B": (F.softplus, softplus),
}


def evaluate(
    workload: Workload, activation: Callable[[Tensor], Tensor], *, half: bool, packed: bool
) -> Tensor:
    """Colours (M, 3) of random samples of one random object, in fp64.

    Args:
        workload: whose decoder and planes.
        activation: of hidden layers.
        half: whether products take bf16 and colours the approximate tanh.
        packed: whether interpolation is in bf16.
    """
    torch.manual_seed(0)
    side, channels = workload.plane_side, workload.channels
    mlp = workload.make_mlp().double()
    coarse = torch.randn(3, channels, 12, 12, dtype=torch.float64)
    planes = F.interpolate(coarse, size=(side, side), mode="bicubic")
    points = 2.2 * torch.rand(SAMPLES, 3, dtype=torch.float64) - 1.1
    axes = ((0, 1), (0, 2), (1, 2))
    zero = torch.zeros(1, dtype=torch.float64)
    if workload.settings.reduction == "concat":
        pairs = zip(planes, axes, strict=True)
        x = torch.cat(
            [add_quad(zero, p, points[:, u], points[:, v], packed) for p, (u, v) in pairs], 1
        )
    else:
        x = zero
        for level in range(workload.n_levels):
            total = zero
            for plane, (u, v) in zip(F.avg_pool2d(planes, 2**level), axes, strict=True):
                total = add_quad(total, plane, points[:, u], points[:, v], packed)
            x = x + total / 3
    layers = [layer for layer in mlp if isinstance(layer, torch.nn.Linear)]
    for i, layer in enumerate(layers):
        weight = layer.weight.detach()
        if half:
            x, weight = rounded(x), rounded(weight)
        x = x @ weight.T + layer.bias.detach()
        if i + 1 < len(layers):
            x = activation(x)
    return 0.5 + 0.5 * (tanh_approx if half else torch.tanh)(x[:, 1:] / 2)


def psnr(got: Tensor, expected: Tensor) -> float:
    return -10 * math.log10((got - expected).square().mean())


@pytest.mark.parametrize("name", ["A", "B"])
def test_colours_keep_50_db(name: str) -> None:
    exact, approximate = ACTIVATIONS[name]
    workload = WORKLOADS[name]
    expected = evaluate(workload, exact, half=False, packed=False)
    assert expected.std() > 0.05  # else any error would be a small one
    products = psnr(evaluate(workload, exact, half=True, packed=False), expected)
    everything = psnr(evaluate(workload, approximate, half=True, packed=True), expected)
    assert everything > 50
    assert everything > products - 2  # what products in bf16 cost anyway


def test_no_tap_is_out_of_the_plane_and_no_weight_is_lost() -> None:
    inside = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    plane = torch.randn(3, 7, 6, dtype=torch.float64)
    for u, v in ((inside, inside.flip(0)), (1.5 * inside, inside)):
        grid = torch.stack([u, v], -1)[None, :, None]
        expected = F.grid_sample(plane[None], grid, align_corners=False)[0, :, :, 0].T
        got = add_quad(torch.zeros(1, dtype=torch.float64), plane, u, v, False)
        torch.testing.assert_close(got, expected)
