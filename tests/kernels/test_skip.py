"""Leaving out samples that add nothing: what is rendered is the same, what is decoded is less."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fastrecon_kernels import Decoder, RenderSettings, build_occupancy, render_rays
from fastrecon_kernels.render import skip
from fastrecon_kernels.render.field import FusedField
from torch import Tensor

from tests.kernels.small_field import make_field, make_rays

SETTINGS = {
    "bins": RenderSettings(n_samples=70, density_shift=0.0),
    "chord": RenderSettings(n_samples=40, interval="chord", density_shift=4.0),
    "midpoint": RenderSettings(n_samples=70, quadrature="midpoint", density_shift=2.0),
    "fine samples": RenderSettings(
        n_samples=20, n_importance=12, quadrature="midpoint", stratified=True, density_shift=3.0
    ),
}


RAYS = 9


def scene(device: torch.device) -> tuple[Tensor, Decoder, Tensor, Tensor]:
    """Planes of two objects, a decoder, and rays."""
    planes, decoder = make_field()
    rays_o, rays_d = make_rays(2, RAYS)
    weights = [weight.to(device) for weight in decoder.weights]
    biases = [None if bias is None else bias.to(device) for bias in decoder.biases]
    moved = Decoder(weights, biases)
    return planes.to(device), moved, rays_o.to(device), rays_d.to(device)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each list had."""
    counts: list[int] = []
    fill = skip.fill_records

    def counting(records, samples, inputs, settings, precision, listed) -> None:
        counts.append(int(listed.count[0]))
        chosen = listed.indices[: counts[-1]].long()
        assert len(chosen.unique()) == len(chosen)
        fill(records, samples, inputs, settings, precision, listed)

    monkeypatch.setattr(skip, "fill_records", counting)
    return counts


def both(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, settings: RenderSettings, grid: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """A rendering with skipping and one without, by the same kernels."""
    planes, decoder, rays_o, rays_d = scene(device)
    occupancy = None
    if grid:
        occupancy = torch.rand(2, 5, 5, 5, generator=torch.Generator().manual_seed(1)) < 0.4
        occupancy = occupancy.to(device)

    def render() -> list[Tensor]:
        found = render_rays(
            planes, decoder, rays_o, rays_d, settings,
            occupancy=occupancy, seed=5, precision="fp32", backend="triton", per_sample=True,
        )  # fmt: skip
        assert found.samples is not None
        return [found.rgb, found.opacity, found.depth, *found.samples]

    skipping = render()
    monkeypatch.setattr(FusedField, "may_skip", property(lambda self: False))
    return skipping, render()


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_the_picture_is_the_same(
    name: str,
    grid: bool,
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    decoded: list[int],
) -> None:
    settings = replace(SETTINGS[name], early_stop=0.05)
    skipping, plain = both(monkeypatch, device, settings, grid)
    for a, b in zip(skipping, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    everything = 2 * RAYS * (settings.n_samples + settings.n_importance)
    assert bool(plain[1].max() > 0.9)  # else there was nothing to stop at
    if grid or not settings.n_importance:
        assert 0 < sum(decoded) < 0.9 * everything
    else:  # early stop alone leaves fine samples alone
        assert not decoded


def test_rays_end_behind_a_wall(device: torch.device, decoded: list[int]) -> None:
    planes, decoder, rays_o, rays_d = scene(device)
    wall = RenderSettings(n_samples=160, density_shift=8.0, early_stop=1e-3)
    render_rays(planes, decoder, rays_o, rays_d, wall, precision="fp32", backend="triton")
    assert len(decoded) == math.ceil(160 / skip.SEGMENT)
    assert decoded[0] > 0
    assert decoded[-1] == 0


def test_what_is_not_a_number_is_not_skipped(device: torch.device) -> None:
    planes, decoder, rays_o, rays_d = scene(device)
    settings = RenderSettings(n_samples=64, density_shift=4.0, early_stop=1e-2)
    bad = planes.clone()
    bad[:, :, :, 3] = math.nan
    found = render_rays(
        bad, decoder, rays_o, rays_d, settings,
        precision="fp32", backend="triton",
    )  # fmt: skip
    assert bool(found.rgb.isnan().any())


def test_an_empty_grid_leaves_nothing_to_decode(device: torch.device, decoded: list[int]) -> None:
    planes, decoder, rays_o, rays_d = scene(device)
    settings = RenderSettings(n_samples=48, density_shift=-6.0)
    empty = build_occupancy(planes, decoder, settings, resolution=8, threshold=1e9)
    assert not bool(empty.any())
    found = render_rays(
        planes, decoder, rays_o, rays_d, settings,
        occupancy=empty, precision="fp32", backend="triton",
    )  # fmt: skip
    assert decoded == [0]
    assert not bool(found.opacity.any())
