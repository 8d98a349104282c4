"""Gradients of the first layer and the planes: through windows, tap by tap, and both in one call.

The field's backward pass alone, for random gradients of its records, against autograd.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from fastrecon_kernels import Decoder, RenderSettings
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need Triton")

from fastrecon_kernels.render import launch_first
from fastrecon_kernels.render.field import FieldPlan, FusedField
from fastrecon_kernels.render.launch import Records, Samples
from fastrecon_kernels.render.reference import query_points_reference

pytestmark = pytest.mark.usefixtures("poison_empty")
CHANNELS = 5
DEPTHS = 5


class Spy:
    """A kernel that remembers how many tiles of each plane had a rest."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.calls, self.samples, self.tiles = kernel, 0, 0, 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            self.kernel[grid](*arguments, **options)
            rest, tiles, listed = arguments[12:15]
            self.calls += 1
            self.tiles = 3 * rest.shape[1]
            for plane, program in itertools.product(range(3), range(listed.shape[1])):
                for tile in tiles[plane, program, : listed[plane, program]]:
                    self.samples += int((rest[plane, tile] != 0).sum())

        return launch


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy(launch_first.window_backward_kernel)
    monkeypatch.setattr(launch_first, "window_backward_kernel", spy)
    return spy


def make_levels(device: torch.device, sizes: tuple[int, ...], batch: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    levels = [torch.randn(batch, 3, CHANNELS, s, s + 1, generator=g) for s in sizes]
    return tuple(level.to(device).requires_grad_() for level in levels)


def make_decoder(device: torch.device, reduction: str, hidden: tuple[int, ...]) -> Decoder:
    g = torch.Generator().manual_seed(2)
    widths = [CHANNELS * (3 if reduction == "concat" else 1), *hidden, 4]
    weights = [torch.randn(b, a, generator=g) / a**0.5 for a, b in itertools.pairwise(widths)]
    biases = [torch.randn(b, generator=g) for b in widths[1:]]
    return Decoder(
        [weight.to(device).requires_grad_() for weight in weights],
        [bias.to(device).requires_grad_() for bias in biases],
        "silu",
    )


def picture_rays(height: int, width: int, spread: float) -> tuple[Tensor, Tensor]:
    """Rays (height * width, 3) along z and a little to the side, ``spread`` apart."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = spread * (x.flatten() - width / 2), spread * (y.flatten() - height / 2)
    origins = torch.stack([x, y, torch.full_like(x, -1.0)], -1)
    return origins, torch.tensor([0.1, -0.05, 1.0]).expand_as(origins).contiguous()


def random_rays(n: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return 2 * torch.rand(n, 3, generator=g) - 1, torch.randn(n, 3, generator=g)


def make_samples(
    device: torch.device, rays: tuple[Tensor, Tensor], per_object: int, **options: Any
) -> Samples:
    g = torch.Generator().manual_seed(4)
    rays_o, rays_d = (x.to(device) for x in rays)
    ts = 0.4 + 0.05 * torch.arange(DEPTHS) + 0.01 * torch.rand(len(rays_o), DEPTHS, generator=g)
    return Samples(rays_o, rays_d, ts.to(device), 0, per_object, **options)


def compare(
    samples: Samples,
    levels: tuple[Tensor, ...],
    decoder: Decoder,
    reduction: str,
    spoil: int | None = None,
    exact: bool = False,
) -> dict[str, Tensor]:
    """Both gradients agree; that of sample ``spoil`` is NaN. Returns the kernels'."""
    settings = RenderSettings(reduction=reduction)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(5)
    d_raw = torch.randn(samples.count, generator=g).to(samples.rays_o.device)
    d_rgb = torch.randn(samples.count, 3, generator=g).to(samples.rays_o.device)
    if spoil is not None:
        d_raw[spoil] = torch.nan
    plan = FieldPlan(settings, "tf32", exact, planes=True, decoder=True, positions=True)
    with torch.no_grad():
        field = FusedField(plan, levels, decoder, None)
        records = field.records(samples, cuts=True)
        assert isinstance(records, Records)
        d_points = field.backward(samples, records, d_raw, d_rgb)
        sums = field.gradients()
    assert d_points is not None
    got = {f"planes of level {i}": x for i, x in enumerate(sums.levels)}
    got |= {f"weight {i}": x for i, x in enumerate(sums.weights)}
    got |= {f"bias {i}": x for i, x in enumerate(sums.biases)} | {"points": d_points}

    points = samples.positions().detach().requires_grad_()
    raw, rgb = [], []
    for b, (p, level) in enumerate(
        zip(points.split(samples.rays_per_object * DEPTHS), itertools.repeat(levels))
    ):
        one = query_points_reference(tuple(x[b : b + 1] for x in level), decoder, p[None], settings)
        raw.append(one[0][0])
        rgb.append(one[1][0])
    leaves = [*levels, *decoder.weights, *(b for b in decoder.biases if b is not None), points]
    expected = torch.autograd.grad([torch.cat(raw), torch.cat(rgb)], leaves, [d_raw, d_rgb])
    found = {}
    for (name, have), want in zip(got.items(), expected, strict=True):
        assert have is not None, name
        assert torch.equal(have.isnan(), want.isnan()), name
        have, want = have.nan_to_num(), want.nan_to_num()
        error = (have - want).abs().max().item()
        assert error <= 1e-4 * want.abs().max().item(), f"{name}: off by {error}"
        found[name] = have
    return found


@pytest.mark.parametrize(
    ("reduction", "hidden", "sizes"),
    [
        ("concat", (24,), (12,)),
        ("mean", (16, 16), (12, 6, 3)),
        ("sum", (), (9, 4)),
    ],
)
@pytest.mark.parametrize("width", [0, 6])
def test_pictures_go_through_windows(
    device: torch.device,
    spy: Spy,
    reduction: str,
    hidden: tuple[int, ...],
    sizes: tuple[int, ...],
    width: int,
) -> None:
    """18 rays of one object, in no number that tiles divide; some samples outside the planes."""
    samples = make_samples(device, picture_rays(3, 6, 0.09), 18, picture_width=width)
    levels = make_levels(device, sizes, 1)
    compare(samples, levels, make_decoder(device, reduction, hidden), reduction)
    assert spy.calls == 1
    assert spy.samples < 0.2 * 3 * samples.count


def test_rays_that_lie_alone_go_tap_by_tap(device: torch.device, spy: Spy) -> None:
    samples = make_samples(device, random_rays(20), 20)
    levels = make_levels(device, (64,), 1)
    compare(samples, levels, make_decoder(device, "concat", (16,)), "concat")
    inside = (samples.positions().abs() <= 1).all(-1).sum().item()
    assert spy.samples > 1.5 * inside


def test_a_picture_with_lone_rays(device: torch.device, spy: Spy) -> None:
    rays_o, rays_d = picture_rays(4, 4, 0.05)
    rays_o[::6] = random_rays(3)[0]
    samples = make_samples(device, (rays_o, rays_d), 16, picture_width=4)
    compare(samples, make_levels(device, (40, 20), 1), make_decoder(device, "sum", (16,)), "sum")
    assert 0 < spy.samples < 0.5 * 3 * samples.count


@pytest.mark.parametrize("exact", [False, True])
def test_three_objects_in_a_tile(device: torch.device, spy: Spy, exact: bool) -> None:
    """Objects of four rays: a window serves one, whatever the others have there."""
    samples = make_samples(device, picture_rays(3, 4, 0.06), 4)
    levels, decoder = make_levels(device, (12, 6), 3), make_decoder(device, "sum", (16,))
    compare(samples, levels, decoder, "sum", exact=exact)
    assert spy.samples < 3 * samples.count


@pytest.mark.parametrize("exact", [False, True])
def test_chunks_of_a_picture_begin_anywhere(device: torch.device, exact: bool) -> None:
    """Two chunks of a picture four rays wide add up to the whole."""
    rays_o, rays_d = picture_rays(5, 4, 0.06)
    whole = make_samples(device, (rays_o, rays_d), 20, picture_width=4)
    levels, decoder = make_levels(device, (12,), 1), make_decoder(device, "concat", (16,))
    settings = RenderSettings()
    g = torch.Generator().manual_seed(5)
    d_raw = torch.randn(whole.count, generator=g).to(device)
    d_rgb = torch.randn(whole.count, 3, generator=g).to(device)
    plan = FieldPlan(settings, "tf32", exact, planes=True, decoder=True, positions=True)
    field = FusedField(plan, levels, decoder, None)
    with torch.no_grad():
        for first, last in ((0, 7), (7, 20)):
            part = whole._replace(
                rays_o=whole.rays_o[first:last],
                rays_d=rays_d[first:last].to(device),
                ts=whole.ts[first:last] if whole.ts is not None else None,
                first_ray=first,
            )
            flat = slice(first * DEPTHS, last * DEPTHS)
            records = field.records(part, cuts=True)
            field.backward(part, records, d_raw[flat], d_rgb[flat])
    expected = compare(whole, levels, decoder, "concat")
    (found,) = field.gradients().levels
    assert found is not None
    torch.testing.assert_close(found, expected["planes of level 0"], rtol=1e-4, atol=1e-4)


def test_a_gradient_that_is_not_finite_stays_on_its_texels(device: torch.device, spy: Spy) -> None:
    samples = make_samples(device, picture_rays(4, 4, 0.05), 16, picture_width=4)
    levels, decoder = make_levels(device, (12, 6), 1), make_decoder(device, "sum", (16,))
    compare(samples, levels, decoder, "sum", spoil=30)
    assert spy.samples > 0


@pytest.mark.parametrize("position", [float("nan"), 3.0, -1.0])
def test_positions_at_and_beyond_the_border(
    device: torch.device, spy: Spy, position: float
) -> None:
    """A ray that starts there spoils no neighbour's texels."""
    rays_o, rays_d = picture_rays(4, 4, 0.05)
    rays_o[5, 0], rays_d[5] = position, torch.tensor([0.0, 0.0, 1.0])
    samples = make_samples(device, (rays_o, rays_d), 16, picture_width=4)
    levels, decoder = make_levels(device, (12,), 1), make_decoder(device, "concat", (16,))
    settings = RenderSettings()
    plan = FieldPlan(settings, "tf32", False, planes=True)
    field = FusedField(plan, levels, decoder, None)
    with torch.no_grad():
        records = field.records(samples, cuts=True)
        d_raw = torch.ones(samples.count, device=device)
        field.backward(samples, records, d_raw, torch.zeros(samples.count, 3, device=device))
        (found,) = field.gradients().levels
    assert found is not None
    assert found.isfinite().all()
    if position == position:
        compare(samples, levels, decoder, "concat")


def test_a_window_reads_no_texel_that_no_sample_touches(device: torch.device, spy: Spy) -> None:
    samples = make_samples(device, picture_rays(4, 4, 0.05), 16, picture_width=4)
    levels, decoder = make_levels(device, (24,), 1), make_decoder(device, "concat", (16,))
    untouched = compare(samples, levels, decoder, "concat")["planes of level 0"] == 0
    with torch.no_grad():
        levels[0][untouched] = torch.nan
    compare(samples, levels, decoder, "concat")
