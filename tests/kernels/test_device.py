"""Device functions that several kernels share, against torch: `fastrecon_kernels.common.device`."""

# Triton types the call of a device function as an error, and constexpr parameters as objects.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="the device functions need Triton")

import triton
import triton.language as tl
from fastrecon_kernels.common import random
from fastrecon_kernels.common.device import (
    gather_plane,
    level_plane,
    sigmoid,
    silu,
    softplus,
    uniform,
)
from fastrecon_kernels.common.device_backward import scatter_plane
from fastrecon_kernels.common.texels import pack_texels, unpack_gradient


@triton.jit
def uniform_kernel(seed_ptr, rays_ptr, out_ptr, STREAM: tl.constexpr, N: tl.constexpr):
    rays = tl.load(rays_ptr + tl.arange(0, N))
    samples = tl.arange(0, N)
    numbers = uniform(tl.load(seed_ptr), rays[:, None], samples[None, :], STREAM)
    tl.store(out_ptr + tl.arange(0, N)[:, None] * N + samples[None, :], numbers)


@triton.jit
def activations_kernel(x_ptr, out_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    x = tl.load(x_ptr + offs)
    tl.store(out_ptr + offs, sigmoid(x))
    tl.store(out_ptr + N + offs, silu(x))
    tl.store(out_ptr + 2 * N + offs, softplus(x))


@triton.jit
def mixed_objects_kernel(
    rows_ptr, table_ptr, objects_ptr, out_ptr, d_rows_ptr, C: tl.constexpr, N: tl.constexpr
):
    offs_n, offs_c = tl.arange(0, N), tl.arange(0, 4)
    objects = tl.load(objects_ptr + offs_n)
    first_row, H, W = level_plane(table_ptr, 0, objects, 1)
    u = tl.zeros((N,), tl.float32)
    mask = offs_n < N
    features = gather_plane(rows_ptr, first_row, H, W, u, u, offs_c, C, mask)
    tl.store(out_ptr + offs_n[:, None] * 4 + offs_c[None, :], features)
    scatter_plane(d_rows_ptr, first_row, H, W, u, u, features, offs_c, C, mask)


@pytest.mark.parametrize("seed", [0, 12345, -3, 2**62 + 99])
@pytest.mark.parametrize("stream", [random.COARSE, random.FINE])
def test_uniform_is_bitwise_the_reference(seed: int, stream: int, device: torch.device) -> None:
    rays = torch.tensor([0, 1, 2, 2**31 - 1, 2**31, 2**33 + 7, 77, 2**40], device=device)
    key = random.seed_tensor(seed, device)
    out = torch.empty(8, 8, device=device)
    uniform_kernel[(1,)](key, rays, out, stream, 8)
    assert torch.equal(out, random.uniform(key, rays, 8, stream))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_activations(device: torch.device) -> None:
    x = torch.cat([torch.linspace(-80, 80, 1023), torch.zeros(1)]).to(device)
    out = torch.empty(3, 1024, device=device)
    activations_kernel[(1,)](x, out, 1024)
    exact = x.double()
    expected = torch.stack([exact.sigmoid(), F.silu(exact), F.softplus(exact)])
    torch.testing.assert_close(out.double(), expected, rtol=2e-6, atol=1e-6)
    # Relative accuracy far down the tail, where log(1 + exp(x)) rounds to 0.
    torch.testing.assert_close(out[2].double(), expected[2], rtol=1e-5, atol=0)


def test_one_program_may_serve_points_of_several_objects(device: torch.device) -> None:
    planes = torch.arange(4.0)[:, None, None, None, None].expand(4, 3, 3, 2, 2).to(device)
    objects = torch.tensor([3, 0, 2, 3], device=device)
    texels = pack_texels((planes,), torch.float32)
    out, d_rows = torch.empty(4, 4, device=device), torch.zeros_like(texels.rows)
    mixed_objects_kernel[(1,)](texels.rows, texels.table, objects, out, d_rows, 3, 4)
    # The centre of a constant plane is its constant; channel 3 of 3 does not exist.
    assert out[:, :3].eq(objects[:, None]).all()
    assert out[:, 3].eq(0).all()
    # Each point gives a quarter of its feature to the four texels: object 3 is looked at twice.
    (gradient,) = unpack_gradient(d_rows, (planes,))
    assert gradient[:, 1, 0, 0, 0].tolist() == [0.0, 0.0, 0.5, 1.5]
    assert gradient[:, [0, 2]].eq(0).all()


def test_texels_keep_every_level_and_dtype() -> None:
    levels = tuple(torch.randn(2, 3, 5, h, w).half() for h, w in ((4, 3), (2, 2)))
    rows, table = pack_texels(levels, torch.float32)
    assert table.tolist() == [[4, 3, 0], [2, 2, 2 * 3 * 12]]
    # Object 1, plane 2, y 3, x 1 of level 0, then object 1, plane 0, y 1, x 0 of level 1.
    assert torch.equal(rows[((1 * 3 + 2) * 4 + 3) * 3 + 1], levels[0][1, 2, :, 3, 1].float())
    assert torch.equal(rows[72 + ((1 * 3 + 0) * 2 + 1) * 2], levels[1][1, 0, :, 1, 0].float())
    for back, level in zip(unpack_gradient(rows, levels), levels, strict=True):
        assert back.dtype == torch.float16
        assert torch.equal(back, level)


def test_texels_of_channel_last_planes_are_not_copied() -> None:
    stored = torch.randn(2, 3, 4, 5, 6)
    planes = stored.permute(0, 1, 4, 2, 3)
    assert pack_texels((planes,), torch.float32).rows.data_ptr() == stored.data_ptr()
