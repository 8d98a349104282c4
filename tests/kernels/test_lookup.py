"""The lookup kernels: gradients of planes merged in windows and tap by tap, of points, and what is
not finite; `fastrecon_kernels.common.lookup_launch`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastrecon_kernels import sample_multires, sample_triplane
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need Triton")

from fastrecon_kernels.common import lookup_launch
from fastrecon_kernels.common.lookup_launch import TUNING, forward_constexprs, look_up_backward
from fastrecon_kernels.common.texels import pack_texels, unpack_gradient

pytestmark = pytest.mark.usefixtures("poison_empty")
AXES = ("xy", "xz", "yz")
LEFT = 4
"""Where `lookup_windows` writes what it leaves, among its arguments."""


class Spy:
    """The kernel of the windows; remembers which points it left."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.rest, self.tiles = kernel, [], []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            self.kernel[grid](*arguments, **options)
            self.rest.append(arguments[LEFT].clone())
            self.tiles.append((options["RAYS"], options["DEPTH"]))

        return launch

    def share(self) -> float:
        """Of the points, on every plane, that were left."""
        return float((self.rest[-1] != 0).float().mean())


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy(lookup_launch.lookup_windows)
    monkeypatch.setattr(lookup_launch, "lookup_windows", spy)
    return spy


def along_rays(n_rays: int, per_ray: int, batch: int = 1, spread: float = 0.05) -> Tensor:
    """Points (B, n_rays, per_ray, 3) of neighbouring rays, from one side of the box to the other
    and a little beyond."""
    g = torch.Generator().manual_seed(3)
    ray = torch.arange(n_rays)[:, None] - n_rays / 2
    t = torch.linspace(-1.1, 1.1, per_ray) + 0.01 * torch.rand(n_rays, per_ray, generator=g)
    x = spread * ray + 0.2 * t
    points = torch.stack([x, 0.3 * x + 0.1, t], -1)
    return torch.stack([points + 0.03 * b for b in range(batch)])


def make_levels(
    channels: int, sizes: tuple[tuple[int, int], ...], dtype: torch.dtype, batch: int = 1
) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, channels, h, w, generator=g).to(dtype) for h, w in sizes]


def random_like(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).to(x.device)


def compare(
    levels: list[Tensor],
    points: Tensor,
    device: torch.device,
    reduction: str = "concat",
    spoil: tuple[int, ...] | None = None,
    factor: float = 1.0,
) -> None:
    """Result and all gradients against the reference; the cotangent at ``spoil`` is NaN."""
    results = {}
    for backend in ("reference", "triton"):
        inputs = [x.to(device).detach().requires_grad_() for x in (points, *levels)]
        out = sample_multires(
            inputs[1:],
            inputs[0],
            reduction=reduction,
            backend=backend,
        )
        cotangent = factor * random_like(out)
        if spoil is not None:
            cotangent[spoil] = torch.nan
        gradients = torch.autograd.grad(out, inputs, cotangent)
        names = ["d_points", *(f"d_levels[{i}]" for i in range(len(levels)))]
        results[backend] = {"features": out, **dict(zip(names, gradients, strict=True))}
    rounding = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 8e-3}
    for name, expected in results["reference"].items():
        got = results["triton"][name]
        assert got.dtype == expected.dtype, name
        assert torch.equal(got.isnan(), expected.isnan()), name
        scale = factor if name != "features" else 1.0
        got, expected = (x.nan_to_num().float() / scale for x in (got, expected))
        tolerance = rounding[results["reference"][name].dtype]
        torch.testing.assert_close(
            got, expected, rtol=tolerance, atol=10 * tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


# --- windows --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "reduction", "dtype"),
    [
        (5, "concat", torch.float32),
        (40, "concat", torch.bfloat16),
        (64, "mean", torch.float16),
        (64, "sum", torch.float32),
        (80, "concat", torch.float32),
    ],
)
def test_neighbouring_points_are_merged(
    channels: int, reduction: str, dtype: torch.dtype, device: torch.device, spy: Spy
) -> None:
    sizes = ((20, 24), (7, 6)) if channels < 64 else ((11, 12),)
    batch = 2 if channels == 5 else 1
    levels = make_levels(channels, sizes, dtype, batch)
    compare(levels, along_rays(9, 17, batch), device, reduction)
    assert spy.tiles[-1][0] > 1
    assert spy.share() < 0.5  # tiles of a single ray at the edge share few texels


def test_most_points_of_whole_tiles_are_merged(device: torch.device, spy: Spy) -> None:
    compare(make_levels(4, ((24, 24),), torch.float32), along_rays(8, 32), device)
    assert spy.share() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_points_in_no_order_go_tap_by_tap(
    dtype: torch.dtype, device: torch.device, spy: Spy
) -> None:
    points = 2 * torch.rand(1, 200, 3, generator=torch.Generator().manual_seed(2)) - 1
    compare(make_levels(5, ((96, 80),), dtype), points, device)
    assert spy.tiles[-1][0] == 1
    assert spy.share() > 0.9


@pytest.mark.parametrize("shape", [(2, 70), (1, 3, 70), (1, 50, 3), (1, 1, 64), (1, 4, 5, 9)])
def test_any_arrangement_of_the_points(
    shape: tuple[int, ...], device: torch.device, spy: Spy
) -> None:
    count = torch.Size(shape[1:]).numel()
    points = along_rays(1, count, shape[0]).reshape(*shape, 3)
    compare(make_levels(3, ((9, 8), (4, 4)), torch.float32, shape[0]), points, device)
    assert spy.rest


def test_points_out_of_the_planes_add_nothing(device: torch.device, spy: Spy) -> None:
    points = along_rays(8, 16)
    points[0, 2, 3:6] = 1.4
    points[0, :4, 5, 0] = torch.nan
    points[0, 3:, 7, 2] = torch.inf
    compare(make_levels(5, ((8, 8),), torch.float32), points, device)
    assert spy.rest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_stays_on_its_texels(
    dtype: torch.dtype, device: torch.device, spy: Spy
) -> None:
    compare(make_levels(5, ((12, 13),), dtype), along_rays(8, 32), device, spoil=(0, 3, 14))
    assert 0 < spy.share() < 0.5  # its tile alone


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("factor", [1e-22, 1e-8, 1e5, 1e25])
def test_gradients_of_any_size(factor: float, device: torch.device) -> None:
    compare(make_levels(5, ((12, 13),), torch.float32), along_rays(8, 16), device, factor=factor)


def test_gradients_of_zero(device: torch.device) -> None:
    planes = make_levels(5, ((12, 13),), torch.float32)[0].to(device).requires_grad_()
    out = sample_triplane(planes, along_rays(8, 16).to(device), backend="triton")
    (gradient,) = torch.autograd.grad(out, planes, torch.zeros_like(out))
    assert gradient.eq(0).all()


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 5e-4), (torch.float32, 2e-6)])
def test_how_exact_merged_gradients_are(
    dtype: torch.dtype, error: float, device: torch.device, spy: Spy
) -> None:
    """Before they are rounded to the planes' type, against sums in fp64 (1.3e-6 is what positions
    in fp32 cost)."""
    (planes,) = make_levels(16, ((24, 24),), dtype)
    points = along_rays(8, 32)
    exact = planes.double().requires_grad_()
    out = sample_triplane(exact, points.double())
    grad = random_like(out)
    (expected,) = torch.autograd.grad(out, exact, grad.double())
    texels = pack_texels((planes.to(device),), dtype)
    d_rows = torch.zeros(texels.rows.shape, device=device)
    look_up_backward(texels, points.to(device), grad.to(device), AXES, "concat", d_rows, False)
    (got,) = unpack_gradient(d_rows, (planes.float(),))
    assert (got.cpu() - expected).norm() < error * expected.norm()
    assert spy.share() < 0.1


def test_without_windows(device: torch.device, monkeypatch: pytest.MonkeyPatch, spy: Spy) -> None:
    bare = TUNING["interpreter"]._replace(one=None, three=None)
    monkeypatch.setattr(lookup_launch, "tuning_of", lambda device: bare)
    compare(make_levels(5, ((12, 13),), torch.float32), along_rays(8, 16), device)
    assert not spy.rest


def test_gradients_reach_texels_past_two_to_the_31(device: torch.device, spy: Spy) -> None:
    # As the forward test in `test_triplane_sample.py`: fresh memory is zero and takes no room.
    side, channels = 4096, 43
    count = 3 * side * side
    rows = torch.zeros(1, channels, dtype=torch.bfloat16, device=device).expand(count, channels)
    table = torch.tensor([[side, side, 0]], device=device)
    d_rows = torch.zeros(1, device=device).new_empty(count, channels)
    d_rows[-8 * side :] = 0
    step = torch.arange(16) * 2 / side / 16
    points = (1 - 2 / side - step).expand(8, 16)[None, ..., None].expand(1, 8, 16, 3)
    grad = torch.zeros(1, 8, 16, 3 * channels, device=device)
    grad[..., -channels:] = 1
    texels = lookup_launch.Texels(rows, table)
    look_up_backward(texels, points.to(device), grad, AXES, "concat", d_rows, False)
    assert spy.share() == 0
    total = d_rows[-8 * side :].sum(0)
    torch.testing.assert_close(total, torch.full_like(total, 128.0), rtol=1e-3, atol=0)


# --- points and texels that are not finite --------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_of_points_at_texel_centres(dtype: torch.dtype, device: torch.device) -> None:
    """There the right neighbour's weight is 0, and the gradient looks to the right."""
    centres = (torch.arange(5) * 4 - 9) / 8
    points = torch.cartesian_prod(centres, centres, centres)[None]
    levels = make_levels(6, ((8, 8),), dtype)
    compare(levels, points, device, "sum")


@pytest.mark.parametrize("channels", [5, 32])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_only_neighbours_see_a_texel_that_is_not_finite(
    channels: int, value: float, device: torch.device
) -> None:
    (planes,) = make_levels(channels, ((4, 8),), torch.float32)
    planes[..., 1, 7] = value  # at a border
    planes[..., 2, 1] = value  # next to one
    planes[..., 3, 3] = value
    side = torch.tensor([-1.2, -0.9, -0.75, -0.4, 0.0, 0.3, 0.75, 0.875, 0.95, 1.1])
    points = torch.cartesian_prod(side, side, torch.tensor([0.1, 1.0]))[None].to(device)
    got, expected = (
        sample_triplane(planes.to(device), points, backend=backend)
        for backend in ("triton", "reference")
    )
    assert not expected.isfinite().all()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


# --- choices --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "dtype", "pieces", "rotates"),
    [
        (40, torch.bfloat16, 3, False),
        (64, torch.bfloat16, 4, True),
        (32, torch.float32, 2, True),
        (80, torch.float32, 4, False),
        (128, torch.bfloat16, 4, True),
        (5, torch.float16, 1, False),
    ],
)
def test_pieces(channels: int, dtype: torch.dtype, pieces: int, rotates: bool) -> None:
    found = forward_constexprs(channels, dtype, TUNING["hopper"])
    assert (found["N"], found["ROTATE"]) == (pieces, rotates)
    assert found["SPLIT"] == (dtype == torch.bfloat16)
    assert not forward_constexprs(channels, dtype, TUNING["interpreter"])["SPLIT"]
