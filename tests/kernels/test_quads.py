"""Taps that need no mask, against the masked ones: `fastrecon_kernels.common.quads`."""

# Triton types the call of a device function as an error, and constexpr parameters as objects.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="the device functions need Triton")

import triton
import triton.language as tl
from fastrecon_kernels.common.device import level_plane, pack_axes, plane_coords
from fastrecon_kernels.common.quads import axis_taps, block_pieces
from fastrecon_kernels.common.texels import pack_texels, unpack_gradient
from fastrecon_kernels.render.pack import DecoderShape
from fastrecon_kernels.render.tuning import TUNING, field_options, piece_of

from tests.kernels.plain_taps import gather_plane

AXES = pack_axes(("xy", "xz", "yz"))
CASES = [
    # sizes of the levels, channels, 64-bit rows
    (((6, 7),), 40, False),
    (((5, 2), (4, 4)), 3, True),
    (((1, 5),), 20, False),
    (((3, 1), (1, 1)), 3, False),
    (((1, 1),), 3, True),
]


@triton.jit(do_not_specialize=["size"])
def axis_kernel(u_ptr, first_ptr, weights_ptr, size, M: tl.constexpr):
    offs = tl.arange(0, M)
    first, near, far = axis_taps(size, tl.load(u_ptr + offs), False)
    tl.store(first_ptr + offs, first)
    tl.store(weights_ptr + offs, near)
    tl.store(weights_ptr + M + offs, far)


@triton.jit(do_not_specialize=["first_plane"])
def blocks_kernel(
    rows_ptr, table_ptr, objects_ptr, points_ptr, out_ptr, masked_ptr, first_plane,
    C: tl.constexpr, N_LEVELS: tl.constexpr, N_PLANES: tl.constexpr, AXES: tl.constexpr,
    PIECE: tl.constexpr, LONG_ROWS: tl.constexpr, M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The sums by unmasked and by masked taps."""
    offs = tl.arange(0, M)
    x = tl.load(points_ptr + offs)
    y = tl.load(points_ptr + M + offs)
    z = tl.load(points_ptr + 2 * M + offs)
    objects = tl.load(objects_ptr + offs)
    pieces = block_pieces(
        rows_ptr, table_ptr, objects, x, y, z, first_plane,
        C, N_LEVELS, N_PLANES, AXES, PIECE, LONG_ROWS, M, False,
    )  # fmt: skip
    for p in tl.static_range((C + PIECE - 1) // PIECE):
        columns = p * PIECE + tl.arange(0, PIECE)
        tl.store(out_ptr + offs[:, None] * BLOCK_C + columns[None, :], pieces[p])
    channels = tl.arange(0, BLOCK_C)
    total = tl.zeros((M, BLOCK_C), tl.float32)
    for i in range(N_PLANES):
        u, v = plane_coords(x, y, z, first_plane + i, AXES)
        for level in range(N_LEVELS):
            first_row, H, W = level_plane(table_ptr, level, objects, first_plane + i)
            total += gather_plane(rows_ptr, first_row, H, W, u, v, channels, C, offs < M)
    tl.store(masked_ptr + offs[:, None] * BLOCK_C + channels[None, :], total)


def points(m: int) -> torch.Tensor:
    """(3, M) within the box, on its faces and out there, among them infinite ones and NaN."""
    g = torch.Generator().manual_seed(2)
    inside = 2.6 * torch.rand(3, m, generator=g) - 1.3
    special = [1.0, -1.0, 0.0, 3e38, -1e20, float("inf"), -float("inf"), float("nan")]
    inside[:, : len(special)] = torch.tensor(special)
    inside[1:, len(special) : 2 * len(special)] = torch.tensor(special)
    return inside


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_taps_of_an_axis(size: int, device: torch.device) -> None:
    u = torch.cat([torch.linspace(-2, 2, 56), points(16)[0, :8]]).to(device)
    first = torch.empty(64, dtype=torch.int32, device=device)
    weights = torch.empty(2, 64, device=device)
    axis_kernel[(1,)](u, first, weights, size, 64)
    assert first.min() >= 0
    assert first.max() <= max(size - 2, 0)
    texels = torch.arange(size, device=device)
    x = (u[:, None] + 1) * (size / 2) - 0.5
    expected = torch.nan_to_num((1 - (x - texels).abs()).clamp_min(0), 0.0)
    got = torch.zeros(64, size + 1, device=device)
    got.scatter_add_(1, first[:, None].long(), weights[0][:, None])
    got.scatter_add_(1, first[:, None].long() + 1, weights[1][:, None])
    torch.testing.assert_close(got[:, :size], expected, rtol=0, atol=1e-5)
    assert got[:, size].eq(0).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("sizes", "channels", "long_rows"), CASES, ids=str)
def test_masks_change_nothing(
    sizes: tuple[tuple[int, int], ...], channels: int, long_rows: bool, device: torch.device
) -> None:
    g = torch.Generator().manual_seed(1)
    levels = [torch.randn(3, 3, channels, h, w, generator=g).to(device) for h, w in sizes]
    texels = pack_texels(levels, torch.float32)
    m, piece = 32, piece_of(channels)
    block_c = max(16, triton.next_power_of_2(channels))
    objects = (torch.arange(m) % 3).int().to(device)
    for first_plane, n_planes in ((0, 3), (2, 1)):
        got, masked = torch.zeros(2, m, block_c, device=device)
        blocks_kernel[(1,)](
            texels.rows, texels.table, objects, points(m).to(device), got, masked, first_plane,
            channels, len(sizes), n_planes, AXES, piece, long_rows, m, block_c,
        )  # fmt: skip
        torch.testing.assert_close(got, masked, rtol=1e-5, atol=1e-5)
        assert masked.abs().max() > 0.1
        assert got[:, channels:].eq(0).all()


@pytest.mark.parametrize("sizes", [((1, 5),), ((4, 3), (2, 1))], ids=str)
def test_rows_that_thin_planes_read_beyond_their_own_are_zero(
    sizes: tuple[tuple[int, int], ...],
) -> None:
    levels = [torch.ones(1, 3, 2, h, w) for h, w in sizes]
    rows, _ = pack_texels(levels, torch.float32)
    assert rows.shape == (sum(3 * h * w for h, w in sizes), 2)
    _, width = sizes[-1]
    beyond = rows.as_strided((rows.shape[0] + width + 1, 2), (2, 1))[rows.shape[0] :]
    assert beyond.eq(0).all()
    for back, level in zip(unpack_gradient(rows, levels), levels, strict=True):
        assert torch.equal(back, level)


@pytest.mark.parametrize(
    ("channels", "piece"), [(64, 64), (128, 64), (32, 32), (96, 32), (40, 16), (16, 16), (3, 16)]
)
def test_pieces(channels: int, piece: int) -> None:
    assert piece_of(channels) == piece


def test_only_bf16_products_on_nvidia_are_approximate() -> None:
    assert {name for name, row in TUNING.items() if row.approx} == {
        "hopper",
        "blackwell",
        "nvidia",
    }


@pytest.mark.parametrize(
    ("channels", "width", "cuts", "limited"),
    [(40, 64, False, True), (40, 64, True, False), (40, 128, False, False), (5, 64, False, False)],
)
def test_registers_are_limited_where_they_suffice(
    channels: int, width: int, cuts: bool, limited: bool
) -> None:
    shape = DecoderShape(channels, 3, (width, 4))
    options = field_options(shape, TUNING["hopper"], cuts=cuts)
    assert ("maxnreg" in options) == limited
    assert "maxnreg" not in field_options(shape, TUNING["amd"], cuts=cuts)
