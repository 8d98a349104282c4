"""`build_occupancy` is conservative and laid out as it says; `render_rays` obeys it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fastrecon_kernels import (
    Decoder,
    RenderSettings,
    build_occupancy,
    composite,
    query_points,
    render_rays,
    sample_rays,
)
from fastrecon_kernels.render import occupancy as module
from torch import Tensor

from tests.kernels.small_field import BINS, EACH_PLACEMENT, flatten, make_field, make_rays

LINEAR = RenderSettings(density_activation="relu", density_shift=0.0, reduction="sum")
SUM = Decoder([torch.tensor([[1.0], [0.0]])], [torch.zeros(2)])


def blob(x: int, y: int, z: int, n: int = 8) -> Tensor:
    """Planes whose sum exceeds 2 only near texel (x, y, z) of n: one bright texel in each."""
    planes = torch.zeros(1, 3, 1, n, n)
    for k, (u, v) in enumerate(((x, y), (x, z), (y, z))):
        planes[0, k, 0, v, u] = 1.0
    return planes


def test_index_order_is_x_y_z() -> None:
    """Texel (1, 4, 6) of 8 is cell (1, 4, 6) of 8; density > 2.5 stays well inside that cell."""
    cells = build_occupancy(blob(1, 4, 6), SUM, LINEAR, resolution=8, threshold=2.5)
    expected = torch.zeros(1, 8, 8, 8, dtype=torch.bool)
    expected[0, 0:3, 3:6, 5:8] = True  # the cell grown by one
    assert cells.dtype == torch.bool
    assert torch.equal(cells, expected)


def test_radius_scales_the_grid_with_the_planes() -> None:
    one, two = (
        build_occupancy(blob(1, 4, 6), SUM, replace(LINEAR, radius=r), resolution=8, threshold=2.5)
        for r in (1.0, 0.37)
    )
    assert torch.equal(one, two)


def test_growth_stops_at_the_border() -> None:
    cells = build_occupancy(blob(0, 0, 7), SUM, LINEAR, resolution=8, threshold=2.5)
    assert int(cells.sum()) == 2 * 2 * 2
    assert bool(cells[0, 0, 0, 7])


@pytest.mark.parametrize("resolution", [1, 5, 16])
@pytest.mark.parametrize("threshold", [0.0, 1e-2, 3.0])
def test_dense_points_lie_in_true_cells(resolution: int, threshold: float) -> None:
    planes, decoder = make_field(n_colours=1)
    settings = replace(BINS, radius=1.3, density_shift=-1.0)
    cells = build_occupancy(planes, decoder, settings, resolution=resolution, threshold=threshold)
    assert cells.shape == (2, resolution, resolution, resolution)
    g = torch.Generator().manual_seed(2)
    points = (torch.rand(2, 4000, 3, generator=g) * 2 - 1) * 1.3
    sigmas, _ = query_points(planes, decoder, points, settings)
    index = ((points / 1.3 + 1) * resolution / 2).long().clamp(0, resolution - 1)
    found = torch.stack([cells[b][tuple(index[b].T)] for b in range(2)])
    missed = (sigmas > threshold) & ~found
    # Between lattice points a thin feature can hide from a coarse grid, never from a fine one.
    assert float(missed.float().mean()) < (0.02 if resolution < 8 else 1e-3)


@pytest.mark.parametrize(("raw", "expected"), [(0.1, True), (0.001, False), (-5.0, False)])
def test_the_threshold_is_on_the_activated_density(raw: float, expected: bool) -> None:
    decoder = Decoder([torch.zeros(2, 1)], [torch.tensor([raw, 0.0])])
    cells = build_occupancy(torch.zeros(2, 3, 1, 2, 2), decoder, LINEAR, resolution=4)
    assert bool((cells == expected).all())
    scaled = replace(LINEAR, density_scale=100.0)
    cells = build_occupancy(torch.zeros(2, 3, 1, 2, 2), decoder, scaled, resolution=4)
    assert bool((cells == (raw > 0)).all())


def test_infinite_density_is_occupied() -> None:
    decoder = Decoder([torch.zeros(2, 1)], [torch.tensor([math.inf, 0.0])])
    settings = replace(LINEAR, density_activation="trunc_exp")
    assert bool(build_occupancy(torch.zeros(1, 3, 1, 2, 2), decoder, settings, resolution=2).all())


def test_slabs_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    planes, decoder = make_field()
    whole = build_occupancy(planes, decoder, BINS, resolution=6, threshold=1.0)
    monkeypatch.setattr(module, "SLAB_POINTS", 50)
    assert torch.equal(whole, build_occupancy(planes, decoder, BINS, resolution=6, threshold=1.0))


def test_levels_and_gradients_off() -> None:
    planes, decoder = make_field()
    planes.requires_grad_()
    one = build_occupancy([planes, planes], decoder, BINS, resolution=4, threshold=1.0)
    two = build_occupancy(2 * planes, decoder, BINS, resolution=4, threshold=1.0)
    assert torch.equal(one, two)
    assert not one.requires_grad


def test_resolution_must_be_positive() -> None:
    with pytest.raises(ValueError, match="resolution must be at least 1, got 0"):
        build_occupancy(*make_field(), BINS, resolution=0)


BACKENDS = pytest.mark.parametrize("backend", ["reference", "auto"])


@BACKENDS
@pytest.mark.parametrize("quadrature", ["bins", "midpoint"])
def test_samples_in_false_cells_are_empty(backend: str, quadrature: str) -> None:
    """Against compositing the field by hand, with raw density -inf where the grid says so."""
    settings = replace(BINS, quadrature=quadrature, radius=0.8)  # type: ignore[arg-type]
    planes, decoder = make_field()
    o, d = make_rays(2, 12)
    cells = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(5)) < 0.6
    ts, deltas = sample_rays(o, d, settings)
    points = o[..., None, :] + ts[..., None] * d[..., None, :]
    raw, rgbs = query_points(planes, decoder, points, settings, raw=True, backend=backend)
    for index in torch.cartesian_prod(torch.arange(2), *[torch.arange(3)] * 3).tolist():
        if not cells[tuple(index)]:
            low = torch.tensor([-0.8 + 1.6 / 3 * i for i in index[1:]])
            within = ((points[index[0]] >= low) & (points[index[0]] < low + 1.6 / 3)).all(-1)
            raw[index[0]][within] = -torch.inf
    assert 0.1 < float(raw.isinf().float().mean()) < 0.9
    bins = deltas if quadrature == "bins" else None
    expected = composite(raw, rgbs, ts, settings, deltas=bins, backend="reference")
    found = render_rays(planes, decoder, o, d, settings, occupancy=cells, backend=backend)
    torch.testing.assert_close(found.rgb, expected.rgb)
    torch.testing.assert_close(found.depth, expected.depth)


@BACKENDS
@EACH_PLACEMENT
def test_full_and_empty_occupancy(backend: str, settings: RenderSettings) -> None:
    planes, decoder = make_field()
    planes.requires_grad_()
    o, d = make_rays(2, 6)

    def run(occupancy: Tensor | None) -> list[Tensor]:
        r = render_rays(
            planes, decoder, o, d, settings, occupancy=occupancy, seed=3, backend=backend
        )
        return [*flatten(r), *torch.autograd.grad(r.rgb.square().sum(), planes)]

    plain = run(None)
    for x, y in zip(run(torch.ones(2, 5, 5, 5, dtype=torch.bool)), plain, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)
    rgb, opacity, depth, gradient = run(torch.zeros(2, 5, 5, 5, dtype=torch.bool))
    for x in (rgb - settings.rgb_range[settings.background == "white"], opacity, depth, gradient):
        torch.testing.assert_close(x, torch.zeros_like(x), rtol=0, atol=0)


@BACKENDS
def test_a_built_grid_changes_nothing_that_is_seen(backend: str) -> None:
    settings = replace(BINS, density_activation="relu", density_shift=-4.5, n_samples=40)
    planes, decoder = make_field()
    rays = make_rays(2, 20)
    cells = build_occupancy(planes, decoder, settings, resolution=24, threshold=0.0)
    assert 0.02 < float(cells.float().mean()) < 0.9, "the grid has nothing to skip"
    plain = render_rays(planes, decoder, *rays, settings, backend=backend)
    found = render_rays(planes, decoder, *rays, settings, occupancy=cells, backend=backend)
    assert float(plain.opacity.max()) > 0.2
    for x, y in zip(flatten(found), flatten(plain), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("resolution", [4, 8, 32])
def test_no_texel_falls_between_the_probes(resolution: int) -> None:
    planes = torch.zeros(1, 3, 1, 16, 16)
    planes[0, 0, 0, 5, 9] = 1.0  # the xy plane: y = 5, x = 9, any z
    decoder = Decoder([torch.tensor([[30.0, 0, 0], [0, 0, 0]])], [torch.tensor([-10.0, 0.0])])
    settings = RenderSettings(density_activation="exp")
    cells = build_occupancy(planes, decoder, settings, resolution=resolution, threshold=1.0)[0]
    x, y = (int((texel + 0.5) / 16 * resolution) for texel in (9, 5))
    assert cells[x, y].all()
    assert not cells.all()
