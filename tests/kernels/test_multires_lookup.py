"""`sample_multires` and `build_pyramid`: references against brute force, kernels against them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fastrecon_kernels import build_pyramid, sample_multires, sample_triplane
from torch import Tensor

FILTERS = {1: (1, 3, 3, 1), 2: (1, 3, 5, 7, 7, 5, 3, 1)}
"""Published separable filters of the levels 1/2 and 1/4, before normalisation."""


def shrink_side(size: int, level: int) -> Tensor:
    """Matrix (size / 2^level, size) of the published filter, renormalised where it is cut off."""
    taps = FILTERS[level]
    matrix = torch.zeros(size >> level, size, dtype=torch.float64)
    for i in range(size >> level):
        first = (i << level) + (1 << level) // 2 - len(taps) // 2
        for k, tap in enumerate(taps):
            if 0 <= first + k < size:
                matrix[i, first + k] = tap
        matrix[i] /= matrix[i].sum()
    return matrix


def brute_force(levels: tuple[Tensor, ...], points: Tensor, pairs: tuple, mean: bool) -> Tensor:
    """Sum over levels by looping over points, planes and the four texels around each point."""
    batch, _, channels, _, _ = levels[0].shape
    planes = points.new_zeros(batch, points.shape[1], 3, channels)
    for level in levels:
        height, width = level.shape[-2:]
        for b in range(batch):
            for n, point in enumerate(points[b].tolist()):
                for p, (u, v) in enumerate(pairs):
                    x, y = (point[u] + 1) * width / 2 - 0.5, (point[v] + 1) * height / 2 - 0.5
                    for j in range(max(0, int(y) - 1), min(height, int(y) + 2)):
                        for i in range(max(0, int(x) - 1), min(width, int(x) + 2)):
                            weight = max(0.0, 1 - abs(x - i)) * max(0.0, 1 - abs(y - j))
                            planes[b, n, p] += weight * level[b, p, :, j, i]
    return planes.mean(2) if mean else planes.flatten(2)


def scene(
    channels: int = 4,
    sizes: tuple[tuple[int, int], ...] = ((6, 8), (3, 5), (1, 2)),
    n_points: int = 11,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    seed: int = 0,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Random levels, not all halves of each other, and points of which some lie outside."""
    generator = torch.Generator().manual_seed(seed)
    levels = tuple(
        torch.randn(batch, 3, channels, *size, generator=generator, dtype=torch.float64).to(dtype)
        for size in sizes
    )
    points = torch.rand(batch, n_points, 3, generator=generator, dtype=torch.float64) * 2.6 - 1.3
    return levels, points.to(dtype)


# --- the pyramid ----------------------------------------------------------------------------


def test_pyramid_is_the_published_filters() -> None:
    planes = torch.randn(2, 3, 2, 8, 16, dtype=torch.float64)
    levels = build_pyramid(planes)
    assert levels[0] is planes
    assert [tuple(x.shape[-2:]) for x in levels] == [(8, 16), (4, 8), (2, 4)]
    for level in (1, 2):
        down, across = shrink_side(8, level), shrink_side(16, level)
        expected = torch.einsum("bpchw,ih,jw->bpcij", planes, down, across)
        torch.testing.assert_close(levels[level], expected)


def test_pyramid_is_neither_pooling_nor_a_halving_of_the_level_before() -> None:
    planes = torch.randn(1, 3, 1, 8, 8, dtype=torch.float64)
    _, half, quarter = build_pyramid(planes)
    assert not torch.allclose(half.flatten(0, 1), F.avg_pool2d(planes.flatten(0, 1), 2))
    assert not torch.allclose(quarter, build_pyramid(half, 2)[1])


def test_pyramid_by_hand() -> None:
    # A ramp 0, 1, 2, 3 along the width: the first texel loses the filter's outer 1, so it is
    # (3 * 0 + 3 * 1 + 1 * 2) / 7, and the second is its mirror image.
    planes = torch.arange(4.0).expand(1, 3, 1, 4, 4)
    half = build_pyramid(planes, 2)[1]
    torch.testing.assert_close(half, torch.tensor([5 / 7, 16 / 7]).expand(1, 3, 1, 2, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pyramid_of_half_planes(dtype: torch.dtype) -> None:
    planes = torch.randn(1, 3, 4, 8, 8).to(dtype)
    for got, expected in zip(build_pyramid(planes), build_pyramid(planes.float()), strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, expected.to(dtype))


def test_pyramid_gradient() -> None:
    planes = torch.randn(1, 3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(build_pyramid, (planes,))


@pytest.mark.parametrize(
    ("shape", "n_levels", "message"),
    [
        ((1, 3, 2, 8, 8), 0, "n_levels must be at least 1, got 0"),
        ((1, 3, 2, 6, 8), 3, "3 levels need plane sides divisible by 4, got 6 x 8; ask for fewer"),
        ((3, 2, 8, 8), 2, r"add a batch dimension with planes\[None\]"),
    ],
)
def test_pyramid_errors(shape: tuple[int, ...], n_levels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_pyramid(torch.zeros(shape), n_levels)


# --- the lookup: definition -----------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "concat"])
def test_reference_is_brute_force(reduction: str) -> None:
    levels, points = scene()
    got = sample_multires(levels, points, axes=("xy", "xz", "zy"), reduction=reduction)
    pairs = ((0, 1), (0, 2), (2, 1))
    torch.testing.assert_close(got, brute_force(levels, points, pairs, reduction == "mean"))


def test_reference_by_hand() -> None:
    # Constant levels 1, 10 and 100 on the xy plane: inside, every level gives its constant; the
    # corner of the cube sees a quarter of each; the mean over planes divides by three.
    levels = [torch.zeros(1, 3, 1, n, n) for n in (8, 4, 2)]
    for level, value in zip(levels, (1.0, 10.0, 100.0), strict=True):
        level[:, 0] = value
    points = torch.tensor([[[0.1, -0.2, 0.9], [1.0, 1.0, 0.0]]])
    got = sample_multires(levels, points)[0, :, 0]
    torch.testing.assert_close(got, torch.tensor([37.0, 9.25]))


def test_one_level_is_a_triplane() -> None:
    levels, points = scene()
    for reduction in ("concat", "sum", "mean"):
        got = sample_multires(levels[:1], points, reduction=reduction)
        assert torch.equal(got, sample_triplane(levels[0], points, reduction=reduction))


def test_reference_can_be_differentiated_twice() -> None:
    levels, points = scene(1, ((2, 3), (1, 2)), n_points=2, batch=1)
    inputs = (points.requires_grad_(), *(level.requires_grad_() for level in levels))

    def lookup(points: Tensor, *levels: Tensor) -> Tensor:
        return sample_multires(levels, points)

    assert torch.autograd.gradcheck(lookup, inputs)
    assert torch.autograd.gradgradcheck(lookup, inputs)


def test_linear_in_the_levels() -> None:
    first, points = scene(seed=1)
    second, _ = scene(seed=2)
    mixed = [2 * a - 3 * b for a, b in zip(first, second, strict=True)]
    parts = 2 * sample_multires(first, points) - 3 * sample_multires(second, points)
    torch.testing.assert_close(sample_multires(mixed, points), parts)


PLANES = torch.zeros(1, 3, 4, 2, 2)


@pytest.mark.parametrize(
    ("levels", "error", "message"),
    [
        (PLANES, TypeError, "levels must be a sequence of planes, finest first .*got Tensor"),
        ([], ValueError, r"must hold at least one \(B, 3, C, H, W\) tensor, got none"),
        ([PLANES, PLANES[0]], ValueError, r"levels\[1\] must be .* dimension with levels\[1\]\["),
        ([PLANES, PLANES[:, :, :2]], ValueError, "agree in batch, channels and dtype"),
        ([PLANES, PLANES.half()], ValueError, r"levels\[1\] is .* torch.float16"),
        ([PLANES, PLANES.to("meta")], ValueError, r"on one device.*levels\[1\] on meta"),
    ],
)
def test_errors_say_what_to_do(levels: list[Tensor], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        sample_multires(levels, torch.zeros(1, 5, 3))


def test_triton_refuses_float64(device: torch.device) -> None:
    levels, points = scene()
    with pytest.raises(ValueError, match="an input is float64"):
        sample_multires([x.to(device) for x in levels], points.to(device), backend="triton")


# --- the kernels ----------------------------------------------------------------------------


@pytest.mark.usefixtures("poison_empty")
@pytest.mark.parametrize(
    ("channels", "reduction", "dtype", "n_levels", "n_points"),
    [
        (5, "mean", torch.float32, 3, 11),
        (40, "sum", torch.bfloat16, 2, 9),
        (5, "concat", torch.float16, 2, 11),
        (66, "mean", torch.float32, 2, 1),
        (5, "mean", torch.float32, 3, 0),
    ],
)
def test_kernels(
    channels: int,
    reduction: str,
    dtype: torch.dtype,
    n_levels: int,
    n_points: int,
    device: torch.device,
) -> None:
    levels, points = scene(channels, n_points=n_points, dtype=torch.float32)
    tensors = [points, *(level.to(dtype) for level in levels[:n_levels])]
    results = {}
    for backend in ("reference", "triton"):
        inputs = [x.to(device).detach().requires_grad_() for x in tensors]
        out = sample_multires(inputs[1:], inputs[0], reduction=reduction, backend=backend)
        cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(device)
        gradients = torch.autograd.grad(out, inputs, cotangent)
        names = ["d_points", *(f"d_levels[{i}]" for i in range(n_levels))]
        results[backend] = {"features": out, **dict(zip(names, gradients, strict=True))}
    rounding = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
    for name, expected in results["reference"].items():
        got = results["triton"][name]
        assert got.dtype == expected.dtype, name
        tolerance = rounding[got.dtype]
        torch.testing.assert_close(
            got, expected, rtol=tolerance, atol=10 * tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_kernels_take_a_pyramid_that_carries_gradients(device: torch.device) -> None:
    planes = torch.randn(2, 3, 3, 8, 8).to(device)
    _, points = scene(dtype=torch.float32)
    points = points.to(device)
    gradients = []
    for backend in ("triton", "reference"):
        leaf = planes.clone().requires_grad_()
        sample_multires(build_pyramid(leaf), points, backend=backend).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
