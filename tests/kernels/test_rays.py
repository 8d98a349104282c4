"""Where samples lie: boxes, placement, jitter, importance sampling, the random numbers."""

from __future__ import annotations

import math

import pytest
import torch
from fastrecon_kernels import RenderSettings, sample_rays
from fastrecon_kernels.common.random import COARSE, FINE, seed_tensor, uniform
from fastrecon_kernels.render.rays import importance_samples, ray_range
from torch import Tensor

from tests.kernels import oracle

F64 = torch.float64


def ray(o: tuple[float, ...], d: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    return torch.tensor([[o]], dtype=F64), torch.tensor([[d]], dtype=F64)


def random_rays(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(2, n, 3, generator=g, dtype=F64), torch.randn(
        2, n, 3, generator=g, dtype=F64
    )


# --- boxes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("o", "d", "near", "far"),
    [
        ((-3, 0, 0), (1, 0, 0), 2, 4),
        ((-3, 0, 0), (2, 0, 0), 1, 2),  # t is in units of |d|
        ((-3, 0, 0), (-1, 0, 0), 0, 0),  # behind
        ((0, 0, 0), (0, 1, 0), 0, 1),  # from inside: near is 0
        ((0, 0.5, 0), (0, -1, 0), 0, 1.5),
        ((-3, 2, 0), (1, 0, 0), 0, 0),  # beside
        ((-3, 0.999, 0.999), (1, 0, 0), 2, 4),
        ((-2, -2, 0), (1, 1, 0), 1, 3),
    ],
)
def test_box(o: tuple, d: tuple, near: float, far: float) -> None:
    found = ray_range(*ray(o, d), RenderSettings())
    torch.testing.assert_close(torch.cat(found), torch.tensor([[near], [far]], dtype=F64))


def test_tsr_box_is_shrunk_and_refuses_short_chords() -> None:
    settings = RenderSettings.triposr()
    half = 0.87 * 0.999
    near, far = ray_range(*ray((-3, 0, 0), (1, 0, 0)), settings)
    torch.testing.assert_close((near.item(), far.item()), (3 - half, 3 + half))
    for length, hit in ((0.0099, False), (0.0101, True)):  # a corner cut at 45 degrees
        o, d = ray((half - length - 2, half + 2, 0), (1, -1, 0))
        near, far = ray_range(o, d, settings)
        assert bool((far > near).item()) is hit
        if hit:
            torch.testing.assert_close((near.item(), far.item()), (2.0, 2 + length))
        near, far = ray_range(o, d, RenderSettings(radius=half))
        torch.testing.assert_close((far - near).item(), length)


def test_given_near_and_far_never_miss() -> None:
    near, far = ray_range(*random_rays(5), RenderSettings(near_far=(0.5, 2.5)))
    assert bool((near == 0.5).all())
    assert bool((far == 2.5).all())


@pytest.mark.parametrize("settings", [RenderSettings(radius=0.7), RenderSettings.triposr()])
def test_ranges_are_those_of_a_brute_force(settings: RenderSettings) -> None:
    rays_o, rays_d = random_rays(200)
    rays_d[0, :20, 0] = 0.0
    rays_d[0, 20:40, 1] = -1e-9
    near, far = ray_range(rays_o, rays_d, settings)
    tsr = settings.near_far == "tsr_box"
    half, least = (settings.radius * 0.999, 0.01) if tsr else (settings.radius, 0.0)
    n_hits = 0
    for b in range(2):
        for n in range(200):
            box = oracle.chord(rays_o[b, n], rays_d[b, n], half)
            hit = box.far - box.near > least
            n_hits += hit
            expected = box if hit else (0.0, 0.0)
            found = (near[b, n].item(), far[b, n].item())
            assert found == pytest.approx(expected, rel=1e-12)
    assert 20 < n_hits < 380


def test_half_precision_rays_are_placed_in_fp32() -> None:
    rays_o, rays_d = (x.bfloat16() for x in random_rays(3))
    ts, deltas = sample_rays(rays_o, rays_d, RenderSettings(n_samples=4))
    assert ts.dtype == deltas.dtype == torch.float32


# --- placement ----------------------------------------------------------------------------------


def test_bins_are_sampled_at_their_centres() -> None:
    ts, deltas = sample_rays(*ray((-3, 0, 0), (1, 0, 0)), RenderSettings(n_samples=4))
    torch.testing.assert_close(ts, torch.tensor([[[2.25, 2.75, 3.25, 3.75]]], dtype=F64))
    torch.testing.assert_close(deltas, torch.full((1, 1, 4), 0.5, dtype=F64))


def test_midpoint_samples_both_ends() -> None:
    settings = RenderSettings(n_samples=5, quadrature="midpoint")
    ts, deltas = sample_rays(*ray((-3, 0, 0), (1, 0, 0)), settings)
    torch.testing.assert_close(ts, torch.tensor([[[2, 2.5, 3, 3.5, 4]]], dtype=F64))
    torch.testing.assert_close(deltas, torch.full((1, 1, 4), 0.5, dtype=F64))


@pytest.mark.parametrize("quadrature", ["bins", "midpoint"])
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 0), (2, 3, 4, 1)])
def test_shapes_and_misses(quadrature: str, stratified: bool, shape: tuple[int, ...]) -> None:
    settings = RenderSettings(
        n_samples=6,
        quadrature=quadrature,  # type: ignore[arg-type]
        stratified=stratified,
    )
    o = torch.full((*shape, 3), 5.0, requires_grad=True)
    ts, deltas = sample_rays(o, torch.ones(*shape, 3), settings, seed=0)
    assert ts.shape == (*shape, 6)
    assert deltas.shape == (*shape, 6 if quadrature == "bins" else 5)
    assert bool((ts == 0).all())
    assert bool((deltas == 0).all())
    assert not ts.requires_grad
    assert not deltas.requires_grad


def test_stratified_bins_stay_in_their_bin_and_fill_it() -> None:
    settings = RenderSettings(n_samples=8, stratified=True, near_far=(1.0, 3.0))
    rays = torch.zeros(1, 2000, 3), torch.ones(1, 2000, 3)
    ts, deltas = sample_rays(*rays, settings, seed=1)
    torch.testing.assert_close(deltas, torch.full_like(deltas, 0.25))
    place = (ts - 1) / 0.25 - torch.arange(8)
    assert float(place.min()) >= -1e-5
    assert float(place.max()) <= 1 + 1e-5
    torch.testing.assert_close(place.mean(1), torch.full((1, 8), 0.5), atol=0.03, rtol=0)
    torch.testing.assert_close(place.var(1), torch.full((1, 8), 1 / 12), atol=0.01, rtol=0)


def test_stratified_midpoints_move_forward_by_up_to_one_step() -> None:
    settings = RenderSettings(
        n_samples=5, stratified=True, quadrature="midpoint", near_far=(1.0, 3.0)
    )
    ts, deltas = sample_rays(torch.zeros(1, 500, 3), torch.ones(1, 500, 3), settings, seed=1)
    shift = ts - torch.linspace(1, 3, 5)
    assert float(shift.min()) >= -1e-6
    assert 0.49 < float(shift.max()) < 0.5 + 1e-6
    assert float(ts.max()) > 3.4, "the last sample may pass far"
    torch.testing.assert_close(deltas, ts.diff(dim=-1))
    assert bool((deltas >= 0).all())


# --- random numbers -----------------------------------------------------------------------------


def test_seeds_of_sample_rays() -> None:
    settings = RenderSettings(n_samples=4, stratified=True, near_far=(1.0, 3.0))
    rays = random_rays(6)

    def run(seed: int | Tensor | None) -> Tensor:
        return sample_rays(*rays, settings, seed=seed)[0]

    assert torch.equal(run(7), run(torch.tensor([7])))
    assert not torch.equal(run(7), run(8))
    torch.manual_seed(3)
    first = run(None)
    torch.manual_seed(3)
    assert torch.equal(first, run(None))
    assert not torch.equal(first, run(None))
    key = seed_tensor(7, torch.device("cpu"))
    u = uniform(key, torch.arange(12), 4, COARSE).to(F64).view(2, 6, 4)
    torch.testing.assert_close(run(7), 1 + (torch.arange(4) + u) * 0.5, rtol=0, atol=1e-15)


@pytest.mark.parametrize("bad", [torch.tensor([1, 2]), torch.tensor(1.0)])
def test_seed_must_be_one_integer(bad: Tensor) -> None:
    settings = RenderSettings(stratified=True)
    with pytest.raises(ValueError, match="seed must be one integer, got a torch"):
        sample_rays(*random_rays(1), settings, seed=bad)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**40])
def test_numbers_are_uniform_and_unrelated(seed: int) -> None:
    """Mean, variance and correlations along rays, samples, streams: within 5 standard errors."""
    key = seed_tensor(seed, torch.device("cpu"))
    u = uniform(key, torch.arange(4096), 64, COARSE).double()
    assert u.min() >= 0
    assert u.max() < 1
    n = u.numel()
    assert abs(float(u.mean()) - 0.5) < 5 / math.sqrt(12 * n)
    assert abs(float(u.var()) - 1 / 12) < 5 / math.sqrt(180 * n)
    counts = torch.histc(u, 64, 0, 1)
    assert float(((counts - n / 64) ** 2 / (n / 64)).sum()) < 63 + 5 * math.sqrt(2 * 63)
    centred = (u - 0.5) * math.sqrt(12)
    other = (uniform(key, torch.arange(4096), 64, FINE).double() - 0.5) * math.sqrt(12)
    later = uniform(seed_tensor(seed + 1, torch.device("cpu")), torch.arange(4096), 64, COARSE)
    pairs = {
        "next ray": (centred[1:], centred[:-1]),
        "next sample": (centred[:, 1:], centred[:, :-1]),
        "ray and sample": (centred[1:, :-1], centred[:-1, 1:]),
        "stream": (centred, other),
        "next seed": (centred, (later.double() - 0.5) * math.sqrt(12)),
    }
    for name, (a, b) in pairs.items():
        assert abs(float((a * b).mean())) < 5 / math.sqrt(a.numel()), name


def test_rays_past_32_bits_have_their_own_numbers() -> None:
    key = seed_tensor(0, torch.device("cpu"))
    near, far = (uniform(key, torch.arange(4) + k, 8, COARSE) for k in (0, 2**32))
    assert not torch.equal(near, far)


# --- importance sampling ------------------------------------------------------------------------


def fine_settings(n: int, stratified: bool = False) -> RenderSettings:
    return RenderSettings(n_samples=8, n_importance=n, quadrature="midpoint", stratified=stratified)


@pytest.mark.parametrize("n_coarse", [4, 5, 32])
@pytest.mark.parametrize("n_fine", [2, 9])
def test_importance_samples_are_those_of_a_brute_force(n_coarse: int, n_fine: int) -> None:
    g = torch.Generator().manual_seed(n_coarse)
    ts = torch.rand(5, n_coarse, generator=g, dtype=F64).sort(-1).values
    weights = torch.rand(5, n_coarse - 1, generator=g, dtype=F64) ** 4
    weights[0] = 0
    found = importance_samples(ts, weights, fine_settings(n_fine), None)
    for row in range(5):
        expected = oracle.importance(ts[row].tolist(), weights[row].tolist(), n_fine)
        assert found[row].tolist() == pytest.approx(expected, abs=1e-9)


def test_importance_samples_of_even_weights_are_even() -> None:
    """8 samples: 7 midpoints 0.5 ... 6.5, of which the PDF spans 0.5 ... 5.5."""
    ts = torch.arange(8, dtype=F64)[None]
    fine = importance_samples(ts, torch.full((1, 7), 0.1, dtype=F64), fine_settings(6), None)
    torch.testing.assert_close(fine, torch.tensor([[0.5, 1.5, 2.5, 3.5, 4.5, 5.5]], dtype=F64))


def test_random_importance_samples_follow_the_weights() -> None:
    """All weight in interval 3 of 7: smoothing spreads it over 2, 3, 4 as 1/2, 1, 1/2."""
    ts = torch.arange(8, dtype=F64).expand(4000, 8)
    weights = torch.zeros(4000, 7, dtype=F64)
    weights[:, 3] = 1.0
    key = seed_tensor(2, ts.device)
    fine = importance_samples(ts, weights, fine_settings(4, stratified=True), key)
    assert float(fine.min()) >= 0.5
    assert float(fine.max()) <= 5.5
    counts = torch.histc(fine, 5, 0.5, 5.5) / fine.numel()
    smooth = torch.tensor([0.01, 0.51, 1.01, 0.51, 0.01], dtype=F64)
    torch.testing.assert_close(counts, smooth / smooth.sum(), atol=0.02, rtol=0)


def test_importance_samples_of_a_miss_and_of_no_rays() -> None:
    zero = importance_samples(torch.zeros(2, 8), torch.zeros(2, 7), fine_settings(3), None)
    torch.testing.assert_close(zero, torch.zeros(2, 3), rtol=0, atol=0)
    none = importance_samples(torch.zeros(0, 8), torch.zeros(0, 7), fine_settings(3), None)
    assert none.shape == (0, 3)
