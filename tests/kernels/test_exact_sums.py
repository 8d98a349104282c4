"""Sums of plane gradients that are the same in any order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fastrecon_kernels import Decoder, RenderSettings
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need Triton")

from fastrecon_kernels.render import tuning
from fastrecon_kernels.render.exact_sums import ExactSums
from fastrecon_kernels.render.field import FieldPlan, FusedField
from fastrecon_kernels.render.launch import Samples

pytestmark = pytest.mark.usefixtures("poison_empty")
RAYS_PER_OBJECT, DEPTH, CHANNELS = 12, 6, 5


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Sets the number of programs, and with it the order of the additions, in the interpreter."""
    small = tuning.TUNING["interpreter"]._replace(taps=(16, 1), line=(4, 1, 4))
    monkeypatch.setitem(tuning.TUNING, "interpreter", small)
    tuning.tuning_of.cache_clear()

    def choose(number: int) -> None:
        monkeypatch.setattr(tuning, "INTERPRETED_PROGRAMS", number)
        tuning.n_programs.cache_clear()

    yield choose
    tuning.n_programs.cache_clear()
    tuning.tuning_of.cache_clear()


def make_samples(device: torch.device, first_ray: int, n_rays: int, *, lone: bool) -> Samples:
    """Rays of a bundle, or ``lone`` ones that go tap by tap."""
    g = torch.Generator().manual_seed(3)
    rays_o = 2 * torch.rand(n_rays, 3, generator=g) - 1 if lone else torch.zeros(n_rays, 3)
    rays_d = 0.1 * torch.randn(n_rays, 3, generator=g) + torch.tensor([0.0, 0.0, 1.0])
    ts = torch.rand(n_rays, DEPTH, generator=g).sort(1).values - 0.5
    rays_o, rays_d, ts = (x.to(device) for x in (rays_o, rays_d, ts))
    return Samples(rays_o, rays_d, ts, first_ray, RAYS_PER_OBJECT)


def plane_gradients(
    device: torch.device,
    samples: Samples,
    d_raw: Tensor,
    *,
    exact: bool,
    objects: int = 3,
    sizes: tuple[int, ...] = (9, 4),
) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    levels = tuple(
        torch.randn(objects, 3, CHANNELS, s, s + 1, generator=g).to(device) for s in sizes
    )
    weights = [torch.randn(16, CHANNELS, generator=g), torch.randn(4, 16, generator=g)]
    decoder = Decoder([w.to(device) for w in weights], [None, None], "silu")
    plan = FieldPlan(RenderSettings(reduction="sum"), "tf32", exact, planes=True)
    with torch.no_grad():
        field = FusedField(plan, levels, decoder, None)
        records = field.records(samples, cuts=True)
        field.backward(samples, records, d_raw.to(device), torch.zeros_like(records.rgb))
        return [x for x in field.gradients().levels if x is not None]


def random_gradient(samples: Samples) -> Tensor:
    return torch.randn(samples.count, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("lone", [False, True])
def test_the_order_of_programs_does_not_matter(device: torch.device, programs, lone: bool) -> None:
    samples = make_samples(device, 0, RAYS_PER_OBJECT, lone=lone)
    d_raw = random_gradient(samples)
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for number in (1, 4):
        programs(number)
        for exact, results in found.items():
            results += plane_gradients(device, samples, d_raw, exact=exact, objects=1, sizes=(4,))
    assert torch.equal(*found[True])
    torch.testing.assert_close(found[False][0], found[True][0], rtol=1e-4, atol=1e-5)
    if device.type == "cpu":  # sums of floats do depend on it
        assert not torch.equal(*found[False])


@pytest.mark.parametrize("first_ray", [5, 12])
def test_only_the_chunks_objects_are_added_to(device: torch.device, first_ray: int) -> None:
    """A chunk that begins within any object adds to the planes of those that it reaches."""
    samples = make_samples(device, first_ray, 14, lone=True)
    d_raw = random_gradient(samples)
    exact = plane_gradients(device, samples, d_raw, exact=True)
    reached = {(first_ray + ray) // RAYS_PER_OBJECT for ray in range(14)}
    for have, want in zip(exact, plane_gradients(device, samples, d_raw, exact=False), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
        assert {b for b in range(3) if have[b].any()} == reached


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_gradients_of_any_size(device: torch.device, size: float) -> None:
    samples = make_samples(device, 0, 14, lone=True)
    d_raw = size * random_gradient(samples)
    exact = plane_gradients(device, samples, d_raw, exact=True)
    for have, want in zip(exact, plane_gradients(device, samples, d_raw, exact=False), strict=True):
        assert want.abs().max() > 0.1 * size
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5 * size)


def test_no_gradient_at_all(device: torch.device) -> None:
    samples = make_samples(device, 0, 14, lone=False)
    exact = plane_gradients(device, samples, torch.zeros(samples.count), exact=True)
    assert all(not x.any() for x in exact)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_is_seen(device: torch.device, value: float) -> None:
    """It cannot be told where it belongs, and is not lost either."""
    samples = make_samples(device, 0, 14, lone=True)
    d_raw = random_gradient(samples)
    d_raw[7] = value
    for level in plane_gradients(device, samples, d_raw, exact=True):
        assert level[:2].isnan().all()
        assert not level[2].any()


def test_the_finest_unit_that_holds_all(device: torch.device) -> None:
    """2^n samples of the largest gradient stay below 2^63 units, and 2^60 are in use."""
    samples = make_samples(device, 0, 14, lone=True)
    gradient = torch.full((samples.count, 16), 0.75, device=device)
    torch.set_default_dtype(torch.float64)
    try:
        unit = ExactSums(((9, 10), (4, 5)), samples, (gradient,), 16).unit
    finally:
        torch.set_default_dtype(torch.float32)
    assert unit.dtype == torch.float32
    assert ExactSums(((9, 10),), samples, (gradient,), 16, 8.0).unit == unit / 8
    assert 2**59 < 0.75 * samples.count * unit.item() < 2**62
