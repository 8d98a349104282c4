"""Importance sampling in kernels against its definition: the same samples in the same order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fastrecon_kernels import RenderSettings
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need Triton")

from fastrecon_kernels.render import importance_kernel
from fastrecon_kernels.render.importance_kernel import draw_and_order, merge_records
from fastrecon_kernels.render.rays import importance_samples

pytestmark = pytest.mark.usefixtures("poison_empty")


def coarse_samples(n_rays: int, n_samples: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Increasing times and weights; the first ray misses, the last has one opaque interval."""
    g = torch.Generator().manual_seed(n_samples)
    ts = torch.rand(n_rays, n_samples, generator=g).sort(-1).values + 1
    weights = torch.rand(n_rays, n_samples - 1, generator=g) ** 4
    ts[0], weights[0], weights[-1] = 0, 0, 0
    weights[-1, n_samples // 2] = 1
    return ts.to(device), weights.to(device)


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize(("n_coarse", "n_fine"), [(4, 1), (7, 5), (16, 16), (5, 9)])
def test_samples_and_their_order(
    n_coarse: int, n_fine: int, stratified: bool, device: torch.device
) -> None:
    settings = RenderSettings.g3dr(n_samples=n_coarse, n_importance=n_fine, stratified=stratified)
    ts, weights = coarse_samples(5, n_coarse, device)
    seed = torch.tensor(-(2**62) - 12345, device=device)
    first_ray = 2**33 + 7
    fine, merged, order = draw_and_order(ts, weights, settings, seed, first_ray)
    expected = importance_samples(ts, weights, settings, seed, first_ray)
    torch.testing.assert_close(fine, expected, rtol=1e-5, atol=1e-6)
    both = torch.cat([ts, fine], 1)
    ordered, places = both.sort(dim=1, stable=True)
    assert torch.equal(merged, ordered)
    assert torch.equal(order.long(), places)
    records = torch.arange(both.numel() * 3.0, device=device).view(*both.shape, 3)
    raw, rgb = merge_records(
        order,
        records[:, :n_coarse, 0],
        records[:, :n_coarse],
        records[:, n_coarse:, 0],
        records[:, n_coarse:],
    )
    assert torch.equal(rgb, records.gather(1, places[..., None].expand_as(records)))
    assert torch.equal(raw, rgb[..., 0])


def test_times_that_are_not_numbers_keep_their_places(device: torch.device) -> None:
    """Every index once, so that no record is read out of bounds."""
    settings = RenderSettings.g3dr(n_samples=6, n_importance=3)
    ts, weights = coarse_samples(3, 6, device)
    ts[1, 2], ts[2], weights[1] = torch.nan, torch.inf, torch.nan
    *_, order = draw_and_order(ts, weights, settings, torch.tensor(1, device=device), 0)
    assert torch.equal(order.long().sort(1).values, torch.arange(9, device=device).expand(3, 9))


def test_more_samples_than_a_program_holds(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RenderSettings.g3dr(n_samples=7, n_importance=4, stratified=False)
    ts, weights = coarse_samples(3, 7, device)
    expected = draw_and_order(ts, weights, settings, None, 0)
    monkeypatch.setattr(importance_kernel, "MAX_SAMPLES", 6)
    for got, other in zip(draw_and_order(ts, weights, settings, None, 0), expected, strict=True):
        torch.testing.assert_close(got, other, rtol=1e-5, atol=1e-6)


def test_no_rays(device: torch.device) -> None:
    settings = replace(RenderSettings.g3dr(), stratified=False)
    ts, weights = torch.zeros(0, 32, device=device), torch.zeros(0, 31, device=device)
    fine, merged, order = draw_and_order(ts, weights, settings, None, 0)
    raw, rgb = merge_records(
        order, ts, ts[..., None].expand(0, 32, 3), fine, fine[..., None].expand(0, 32, 3)
    )
    assert (fine.shape, merged.shape) == ((0, 32), (0, 64))
    assert (raw.shape, rgb.shape) == ((0, 64), (0, 64, 3))
