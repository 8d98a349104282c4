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
    sigmoid,
    silu,
    softplus,
    uniform,
)
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
