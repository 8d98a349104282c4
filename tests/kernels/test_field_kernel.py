"""Parts of the field kernel: its divisions, and SiLU out of halved weights and biases."""

# Triton types the call of a device function as an error, and constexpr parameters as objects.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton", reason="the field kernel needs Triton")

import triton
import triton.language as tl
from fastrecon_kernels import Decoder, RenderSettings
from fastrecon_kernels.common import device as common_device
from fastrecon_kernels.common import quads
from fastrecon_kernels.common.backend import interpreting
from fastrecon_kernels.common.texels import pack_texels
from fastrecon_kernels.render import tuning
from fastrecon_kernels.render.device import Divisor, divide
from fastrecon_kernels.render.launch import FieldInputs, Samples, evaluate
from fastrecon_kernels.render.pack import pack_decoder

from tests.kernels.small_field import make_rays

DIVISORS = [1, 2, 3, 5, 7, 64, 96, 100, 127, 128, 641, 16384, 65537, 999983, 1 << 30, (1 << 31) - 1]
MOST = (1 << 31) - 1


def numbers(divisor: int) -> list[int]:
    """Multiples of a divisor and their neighbours, up to the last ones."""
    last = MOST // divisor * divisor
    middle = MOST // 2 // divisor * divisor
    near = [k + i for k in (0, divisor, middle, last) for i in (-1, 0, 1)]
    return [n for n in (*near, MOST) if 0 <= n <= MOST]


@triton.jit(do_not_specialize=["multiplier", "shift"])
def divide_kernel(n_ptr, out_ptr, multiplier, shift, M: tl.constexpr):
    offs = tl.arange(0, M)
    tl.store(out_ptr + offs, divide(tl.load(n_ptr + offs), multiplier, shift))


@pytest.mark.parametrize("divisor", DIVISORS)
def test_quotients_are_exact(divisor: int, device: torch.device) -> None:
    n = torch.tensor((numbers(divisor) + [0] * 16)[:16], dtype=torch.int32, device=device)
    out = torch.full_like(n, -1)
    divide_kernel[(1,)](n, out, *Divisor.of(divisor), 16)
    assert torch.equal(out, n // divisor)


def test_no_divisor_takes_more_than_32_bits() -> None:
    """Otherwise a kernel would compile once for each size of the number."""
    for divisor in (
        *range(1, 5000),
        *DIVISORS,
        *((1 << k) + i for k in range(2, 31) for i in (-1, 1)),
    ):
        multiplier, shift = Divisor.of(divisor)
        assert -(1 << 31) <= multiplier < 0
        assert 0 <= shift <= 31
        for n in numbers(divisor):
            assert n * (multiplier + (1 << 32)) >> 31 + shift == n // divisor


@pytest.mark.parametrize("first_ray", [0, 1, 99, 100, 12345, (1 << 31) + 17, (1 << 33) + 50])
@pytest.mark.parametrize(
    "rays_per_object", [1, 100, (1 << 30) - 1, 1 << 30, (1 << 31) + 5, 1 << 34]
)
def test_objects_of_rays(first_ray: int, rays_per_object: int) -> None:
    rays = torch.zeros(1, 3)
    samples = Samples(rays, None, None, first_ray, rays_per_object)
    *_, multiplier, shift, first_object, lead = samples.divisors()
    next_object = rays_per_object - first_ray % rays_per_object
    for ray in {0, 1, 99, 100, next_object - 1, next_object, (1 << 30) - 1}:
        if ray < 1 << 30:
            assert lead + ray <= MOST
            quotient = (lead + ray) * (multiplier + (1 << 32)) >> 31 + shift
            assert first_object + quotient == (first_ray + ray) // rays_per_object


# The interpreter has no inline assembly: these are what it computes, but exact.


@triton.jit
def tanh(x):
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def tent(distance, APPROX: tl.constexpr):
    return tl.maximum(1.0 - tl.abs(distance), 0.0)


@triton.jit
def floor_taps(x, last):
    first = tl.minimum(tl.maximum(tl.floor(x), 0.0), last)
    return first, first.to(tl.int32) + quads.FLOAT_2_23


@triton.jit
def add_quad(total, a, b, c, d, left, right, upper, lower, APPROX: tl.constexpr):
    total = total.to(tl.float32) + a * (left * upper)[:, None] + b * (right * upper)[:, None]
    return total + c * (left * lower)[:, None] + d * (right * lower)[:, None]


@triton.jit
def widen_add(total, fresh, APPROX: tl.constexpr):
    return total + fresh


@pytest.mark.skipif(not interpreting(), reason="replaces assembly that a GPU has")
@pytest.mark.parametrize("reduction", ["concat", "mean"])
@pytest.mark.parametrize("long_rows", [False, True])
@pytest.mark.parametrize("hidden", [(8,), (8, 8, 8)])
def test_halves_give_the_same_field(
    hidden: tuple[int, ...],
    long_rows: bool,
    reduction: str,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Raw density, colours and cuts, which are z and not half of it."""
    g = torch.Generator().manual_seed(3)
    levels = tuple(torch.randn(2, 3, 20, n, n + 1, generator=g) for n in (6, 3))
    widths = [60 if reduction == "concat" else 20, *hidden, 4]
    weights = [torch.randn(b, a, generator=g) / a**0.5 for a, b in itertools.pairwise(widths)]
    decoder = Decoder(weights, [torch.randn(b, generator=g) for b in widths[1:]])
    rays_o, rays_d = make_rays(12)
    ts = 1.2 + 1.6 * torch.rand(12, 5, generator=g)
    settings = RenderSettings(reduction=reduction, outside="empty")
    samples = Samples(rays_o, rays_d, ts, 30, 36)
    packed = pack_decoder(decoder, 20, torch.float32)
    sizes = tuple((level.shape[3], level.shape[4]) for level in levels)
    plain = tuning.TUNING["interpreter"]
    inputs = FieldInputs(pack_texels(levels, torch.float32), packed, None, sizes, plain)
    expected = evaluate(samples, inputs, settings, "tf32", cuts=True)
    inputs = inputs._replace(tuning=plain._replace(approx=True))
    if long_rows:
        monkeypatch.setattr("fastrecon_kernels.render.launch.LONG_ROWS", 1)
    monkeypatch.setattr(common_device, "tanh_approx", tanh)
    for function in (tent, floor_taps, add_quad, widen_add):
        monkeypatch.setattr(quads, function.__name__, function)
    # Halves alone are read before the last layer.
    packed.biases[0, : -packed.shape.out] = float("nan")
    got = evaluate(samples, inputs, settings, "tf32", cuts=True)
    assert expected.raw.isfinite().any()
    for name in ("raw", "rgb", "cuts"):
        torch.testing.assert_close(
            getattr(got, name), getattr(expected, name), rtol=1e-4, atol=1e-4, msg=name
        )


def test_biases_and_their_halves() -> None:
    decoder = Decoder([torch.ones(5, 3), torch.ones(4, 5)], [torch.arange(5.0), None])
    packed = pack_decoder(decoder, 1, torch.float32)
    assert packed.biases.shape == (2, packed.shape.n_biases)
    assert packed.biases[:, :5].tolist() == [[0, 1, 2, 3, 4], [0, 0.5, 1, 1.5, 2]]
    assert packed.biases[:, 5:].eq(0).all()
