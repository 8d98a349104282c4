"""`sample_triplane`: the reference against brute force, the kernels against the reference."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from fastrecon_kernels import sample_triplane
from torch import Tensor

AXES = (("xy", "xz", "yz"), ("xy", "xz", "zy"), ("yx", "zx", "zy"))
REDUCTIONS = ("concat", "sum", "mean")


def tents(u: Tensor, size: int) -> Tensor:
    """Weight max(0, 1 - |x - i|) of every texel i of a side: (..., size), zero padding included."""
    x = (u + 1) * size / 2 - 0.5
    return (1 - (x[..., None] - torch.arange(size, dtype=u.dtype)).abs()).clamp(min=0)


def brute_force(planes: Tensor, points: Tensor, axes: tuple[str, ...], reduction: str) -> Tensor:
    """Every texel times its tent function, summed; (B, N, 3) points."""
    *_, height, width = planes.shape
    features = []
    for p, (u, v) in enumerate(axes):
        across = tents(points[..., "xyz".index(u)], width)
        down = tents(points[..., "xyz".index(v)], height)
        features.append(torch.einsum("bchw,bnh,bnw->bnc", planes[:, p], down, across))
    if reduction == "concat":
        return torch.cat(features, -1)
    return sum(features, torch.zeros(())) / (3 if reduction == "mean" else 1)


def scene(
    channels: int = 4,
    size: tuple[int, int] = (4, 6),
    n_points: int = 17,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    reach: float = 1.3,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Random planes, and points of which some lie outside."""
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(batch, 3, channels, *size, generator=generator, dtype=torch.float64)
    points = torch.rand(batch, n_points, 3, generator=generator, dtype=torch.float64)
    return planes.to(dtype), (points * 2 - 1).mul(reach).to(dtype)


def border_points(height: int, width: int) -> Tensor:
    """Texel centres, the faces of the cube, half a texel out, and far away: (1, N, 3)."""
    side = [1 / width - 1, 1 - 1 / height, -1.0, 1.0, -1 - 1 / width, 1 + 1 / height, 0.0, 1e30]
    return torch.cartesian_prod(*[torch.tensor(side, dtype=torch.float64)] * 3)[None]


# --- the definition -------------------------------------------------------------------------


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reference_is_the_sum_of_tents(axes: tuple[str, ...], reduction: str) -> None:
    planes, points = scene()
    got = sample_triplane(planes, points, axes=axes, reduction=reduction)  # type: ignore[arg-type]
    torch.testing.assert_close(got, brute_force(planes, points, axes, reduction))


def test_reference_at_borders_is_the_sum_of_tents() -> None:
    planes, _ = scene(batch=1)
    points = border_points(4, 6)
    expected = brute_force(planes, points, AXES[0], "concat")
    torch.testing.assert_close(sample_triplane(planes, points), expected)


def test_reference_agrees_with_grid_sample() -> None:
    planes, points = scene()
    got = sample_triplane(planes, points)
    for p, pair in enumerate(((0, 1), (0, 2), (1, 2))):
        grid = points[..., pair][:, None]
        expected = F.grid_sample(planes[:, p], grid, align_corners=False)[:, :, 0].mT
        torch.testing.assert_close(got[..., 4 * p : 4 * p + 4], expected)


def test_reference_by_hand() -> None:
    # The xy plane is [[1, 2], [3, 4]]: the centre sees all four texels equally, (0.5, -0.5) is the
    # centre of the upper right texel, and a corner of the cube sees a quarter of its texel.
    planes = torch.zeros(1, 3, 1, 2, 2)
    planes[0, 0, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    points = torch.tensor([[[0, 0, 0], [0.5, -0.5, 0], [-1, -1, 0], [1, 1, 0], [1.6, 0, 0]]])
    got = sample_triplane(planes, points, reduction="sum")[0, :, 0]
    assert got.tolist() == [2.5, 2.0, 0.25, 1.0, 0.0]
    mean = sample_triplane(planes, points, reduction="mean")[0, :, 0]
    torch.testing.assert_close(mean, got / 3)


def test_reference_can_be_differentiated_twice() -> None:
    planes, points = scene(channels=2, size=(2, 3), n_points=3, batch=1)
    inputs = (planes.requires_grad_(), points.requires_grad_())
    assert torch.autograd.gradcheck(sample_triplane, inputs)
    assert torch.autograd.gradgradcheck(sample_triplane, inputs)


def test_linear_in_the_planes() -> None:
    first, points = scene(seed=1)
    second, _ = scene(seed=2)
    mixed = sample_triplane(2 * first - 3 * second, points)
    parts = 2 * sample_triplane(first, points) - 3 * sample_triplane(second, points)
    torch.testing.assert_close(mixed, parts)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
def test_any_number_of_point_dimensions(shape: tuple[int, ...]) -> None:
    planes, _ = scene()
    points = torch.rand(2, *shape, 3, dtype=torch.float64)
    got = sample_triplane(planes, points, reduction="sum")
    assert got.shape == (2, *shape, 4)
    flat = sample_triplane(planes, points.reshape(2, -1, 3), reduction="sum")
    assert torch.equal(got.reshape(2, -1, 4), flat)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_planes_give_fp32_and_half_gradients(dtype: torch.dtype) -> None:
    planes, points = scene(dtype=dtype)
    planes.requires_grad_()
    got = sample_triplane(planes, points.float())
    assert got.dtype == torch.float32
    expected = brute_force(planes.detach().double(), points.double(), AXES[0], "concat")
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)
    got.sum().backward()
    assert planes.grad is not None
    assert planes.grad.dtype == dtype


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"planes": torch.zeros(3, 4, 2, 2)}, ValueError, r"add a batch dimension with planes\["),
        ({"planes": torch.zeros(1, 2, 4, 2, 2)}, ValueError, r"must be \(B, 3, C, H, W\), got"),
        ({"planes": torch.zeros(1, 3, 4, 0, 2)}, ValueError, "must have channels and texels"),
        ({"planes": torch.zeros(1, 3, 4, 2, 2).int()}, TypeError, r"convert it with planes.float"),
        ({"planes": [1.0]}, TypeError, "planes must be a torch.Tensor, got list"),
        ({"points": torch.zeros(1, 5, 2)}, ValueError, r"points must be \(B, \.\.\., 3\), got"),
        ({"points": torch.zeros(2, 5, 3)}, ValueError, r"batch size 1, got .*points\[None\]"),
        ({"points": torch.zeros(1, 5, 3, device="meta")}, ValueError, "must be on one device"),
        ({"axes": ("xy", "xx", "yz")}, ValueError, "axes must be three pairs of distinct letters"),
        ({"axes": "xyz"}, ValueError, "axes must be three pairs"),
        ({"reduction": "max"}, ValueError, "reduction must be one of 'concat', 'sum', 'mean'"),
        ({"backend": "cuda"}, ValueError, "backend must be one of 'auto', 'triton', 'reference'"),
    ],
)
def test_errors_say_what_to_do(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"planes": torch.zeros(1, 3, 4, 2, 2), "points": torch.zeros(1, 5, 3), **change}
    with pytest.raises(error, match=message):
        sample_triplane(**arguments)


def test_triton_refuses_float64(device: torch.device) -> None:
    planes, points = scene()
    with pytest.raises(ValueError, match=r"an input is float64; pass \.float\(\) inputs"):
        sample_triplane(planes.to(device), points.to(device), backend="triton")
    assert sample_triplane(planes.to(device), points.to(device)).dtype == torch.float64


def test_works_without_triton() -> None:
    program = """
import sys
sys.modules["triton"] = None
import torch
from fastrecon_kernels import sample_triplane
planes, points = torch.ones(1, 3, 2, 4, 4), torch.zeros(1, 5, 3)
assert sample_triplane(planes, points).eq(1).all()
try:
    sample_triplane(planes, points, backend="triton")
except RuntimeError as error:
    assert "needs the triton package" in str(error), error
else:
    raise SystemExit("an explicit backend fell back silently")
"""
    path = ":".join(p for p in sys.path if p)
    result = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


# --- the kernels ----------------------------------------------------------------------------


def check_kernels(planes: Tensor, points: Tensor, device: torch.device, **options: object) -> None:
    """Result and both gradients, under a random cotangent, against the reference."""
    results = {}
    for backend in ("reference", "triton"):
        inputs = [x.to(device).detach().requires_grad_() for x in (planes, points)]
        out = sample_triplane(*inputs, backend=backend, **options)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(7)
        cotangent = torch.randn(out.shape, generator=generator).to(device)
        d_planes, d_points = torch.autograd.grad(out, inputs, cotangent)
        results[backend] = {"features": out, "d_planes": d_planes, "d_points": d_points}
    rounding = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
    for name, expected in results["reference"].items():
        got = results["triton"][name]
        assert got.dtype == expected.dtype, name
        # Sums of a few dozen terms in another order; half gradients are rounded once at the end.
        tolerance = rounding[got.dtype]
        torch.testing.assert_close(
            got, expected, rtol=tolerance, atol=10 * tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.usefixtures("poison_empty")
@pytest.mark.parametrize(
    ("channels", "reduction", "axes", "dtype"),
    [
        (5, "concat", AXES[0], torch.float32),
        (40, "concat", AXES[0], torch.bfloat16),
        (8, "sum", AXES[1], torch.float16),
        (1, "mean", AXES[2], torch.bfloat16),
        (70, "concat", AXES[2], torch.float32),
        (70, "mean", AXES[0], torch.float32),
    ],
)
def test_kernels(
    channels: int,
    reduction: str,
    axes: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    planes, points = scene(channels, dtype=torch.float32)
    check_kernels(planes.to(dtype), points, device, reduction=reduction, axes=axes)


@pytest.mark.usefixtures("poison_empty")
@pytest.mark.parametrize("n_points", [0, 1, 63, 64, 65])
def test_kernels_at_block_edges(n_points: int, device: torch.device) -> None:
    # 64 points make a block.
    planes, points = scene(33, (3, 2), n_points, torch.float32, batch=1)
    check_kernels(planes, points, device, reduction="mean")


@pytest.mark.usefixtures("poison_empty")
def test_kernels_at_borders(device: torch.device) -> None:
    # Sides that are powers of two keep texel coordinates exact, so both backends agree on which
    # side of a kink a point lies, where the gradient jumps.
    planes, _ = scene(3, (4, 8), dtype=torch.float32, batch=1)
    check_kernels(planes, border_points(4, 8).float(), device)


@pytest.mark.usefixtures("poison_empty")
def test_kernels_on_strided_inputs(device: torch.device) -> None:
    planes, points = scene(6, dtype=torch.float32)
    planes = planes.to(device).permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)[:, :, ::2]
    points = points.to(device).mT.contiguous().mT[:, ::2].flip(-1)
    assert not planes.is_contiguous()
    assert not points.is_contiguous()
    inputs = [planes.requires_grad_(), points.requires_grad_()]
    results = {}
    for backend in ("triton", "reference"):
        out = sample_triplane(*inputs, backend=backend)
        results[backend] = (out, *torch.autograd.grad(out.sum(), inputs))  # an expanded cotangent
    for name, got, expected in zip(
        ("features", "d_planes", "d_points"), results["triton"], results["reference"], strict=True
    ):
        torch.testing.assert_close(got, expected, msg=lambda m, n=name: f"{n}: {m}")


def test_kernels_read_nothing_at_nan_points(device: torch.device) -> None:
    planes, points = scene(3, dtype=torch.float32)
    points[:, 3, 1] = float("nan")
    args = planes.to(device), points.to(device)
    got = sample_triplane(*args, backend="triton")
    torch.testing.assert_close(got, sample_triplane(*args, backend="reference"))
    assert got[:, 3, :3].eq(0).all()
    assert got[:, 3, 6:].eq(0).all()


@pytest.mark.parametrize("wanted", ["planes", "points"])
def test_kernels_compute_only_the_gradient_that_is_asked(wanted: str, device: torch.device) -> None:
    planes, points = scene(3, dtype=torch.float32)
    inputs = {"planes": planes.to(device), "points": points.to(device)}
    inputs[wanted].requires_grad_()
    gradients = []
    for backend in ("triton", "reference"):
        out = sample_triplane(inputs["planes"], inputs["points"], backend=backend)
        gradients += torch.autograd.grad(out.square().sum(), inputs[wanted])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_kernels_in_half_precision_points(device: torch.device) -> None:
    planes, points = scene(3, dtype=torch.bfloat16)
    check_kernels(planes, points, device, reduction="sum")


def test_kernels_refuse_a_second_derivative(device: torch.device) -> None:
    planes, points = scene(3, n_points=4, dtype=torch.float32)
    points = points.to(device).requires_grad_()
    out = sample_triplane(planes.to(device), points, backend="triton")
    (gradient,) = torch.autograd.grad(out.square().sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_kernels_reach_texels_past_two_to_the_31(device: torch.device) -> None:
    # 3 * 43 * 4096^2 = 2.16e9 numbers, channel-last so that nothing is copied; memory that is
    # never written takes no room on a CPU.
    side, channels = 4096, 43
    rows = torch.empty(1, 3, side, side, channels, dtype=torch.bfloat16, device=device)
    texel = torch.arange(channels, dtype=torch.bfloat16, device=device)
    rows[0, 2, -1, -1], rows[0, 2, -1, -2] = texel, -texel
    last = 1 - 1 / side
    points = torch.tensor([[[0, last, last], [0, last - 2 / side, last]]], device=device)
    planes = rows.permute(0, 1, 4, 2, 3)
    got = sample_triplane(planes, points, backend="triton")[0, :, 2 * channels :]
    assert torch.equal(got, torch.stack([texel, -texel]).float())
