"""What `render_rays` promises beside its formulas: hand arithmetic, shapes, types, misses.

Every test runs on the plain reference and on what "auto" takes for CPU tensors.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fastrecon_kernels import (
    Decoder,
    RenderSettings,
    query_points,
    render_rays,
)

from tests.kernels.small_field import BINS, EACH_PLACEMENT, FINE, flatten, make_field, make_rays

pytestmark = pytest.mark.parametrize("backend", ["reference", "auto"])


def constant(raw: float, colours: tuple[float, ...] = (0.0,), channels: int = 1) -> Decoder:
    """A decoder that ignores its input: density ``raw``, colours ``sigmoid(colours)``."""
    bias = torch.tensor([raw, *colours])
    return Decoder([torch.zeros(len(bias), 3 * channels)], [bias])


def test_density_ln2_then_opaque(backend: str) -> None:
    """Two bins of length 1 through the cube: half the light stops in each, all of it at 50."""
    planes, rays = torch.zeros(1, 3, 1, 2, 2), (torch.tensor([[-3.0, 0, 0]]),)
    settings = RenderSettings(
        n_samples=2, density_activation="none", density_shift=0.0, depth_eps=0.0
    )
    direction = torch.tensor([[1.0, 0, 0]])
    r = render_rays(
        planes, constant(math.log(2)), *rays, direction, settings, per_sample=True, backend=backend
    )
    assert r.samples is not None
    torch.testing.assert_close(r.samples.weights, torch.tensor([[0.5, 0.25]]))
    torch.testing.assert_close(r.samples.ts, torch.tensor([[2.5, 3.5]]))
    torch.testing.assert_close(r.samples.deltas, torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(r.opacity, torch.tensor([0.75]))
    torch.testing.assert_close(r.depth, torch.tensor([(2.5 * 0.5 + 3.5 * 0.25) / 0.75]))
    torch.testing.assert_close(r.rgb, torch.tensor([[0.75 * 0.5 + 0.25]]))


@pytest.mark.parametrize(
    ("background", "expected"),
    [("white", [0.75, 0.75]), ("black", [0.25, 0.25]), ((0.2, 0.6), [0.35, 0.55])],
)
@pytest.mark.parametrize("rgb_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_background_and_range(
    backend: str, background: object, expected: list[float], rgb_range: tuple[float, float]
) -> None:
    """Half the light from a 0.5 grey object, half from the background, mapped to the range."""
    settings = RenderSettings(
        n_samples=2,
        density_activation="relu",
        density_shift=0.0,
        density_scale=0.5,
        background=background,  # type: ignore[arg-type]
        rgb_range=rgb_range,
    )
    r = render_rays(
        torch.zeros(1, 3, 1, 2, 2),
        constant(math.log(2), (0.0, 0.0)),
        torch.tensor([[-3.0, 0, 0]]),
        torch.tensor([[1.0, 0, 0]]),
        settings,
        backend=backend,
    )
    low, high = rgb_range
    torch.testing.assert_close(r.rgb, low + (high - low) * torch.tensor([expected]))


def test_background_must_fit_the_colours(backend: str) -> None:
    planes, decoder = make_field()
    settings = replace(BINS, background=(0.0, 1.0))
    with pytest.raises(ValueError, match="background has 2 numbers but the decoder gives 3"):
        render_rays(planes, decoder, *make_rays(2, 1), settings, backend=backend)


def test_a_background_per_ray_is_added_to_black(backend: str) -> None:
    planes, decoder = make_field()
    rays = make_rays(2, 5)
    grey = render_rays(
        planes, decoder, *rays, replace(BINS, background=(0.3,) * 3), backend=backend
    )
    black = render_rays(planes, decoder, *rays, replace(BINS, background="black"), backend=backend)
    torch.testing.assert_close(black.rgb + (1 - black.opacity)[..., None] * 0.3, grey.rgb)


def test_directions_need_not_be_unit(backend: str) -> None:
    """Twice the direction halves every t; a chord fraction does not care, a distance does."""
    planes, decoder = make_field()
    o, d = make_rays(2, 5)
    chord = replace(BINS, interval="chord")
    one, two = (render_rays(planes, decoder, o, s * d, chord, backend=backend) for s in (1, 2))
    torch.testing.assert_close(one.rgb, two.rgb)
    torch.testing.assert_close(one.depth, 2 * two.depth)
    one = render_rays(planes, decoder, o, d, BINS, backend=backend)
    two = render_rays(planes, decoder, o, 2 * d, replace(BINS, density_scale=2.0), backend=backend)
    torch.testing.assert_close(one.rgb, two.rgb)
    torch.testing.assert_close(one.opacity, two.opacity)


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 5), (2, 3, 2), (2, 2, 3, 1, 2)])
@pytest.mark.parametrize(("settings", "n"), [(BINS, 6), (FINE, 8)], ids=["bins", "fine"])
def test_any_number_of_view_dimensions(
    backend: str, settings: RenderSettings, n: int, shape: tuple[int, ...]
) -> None:
    planes, decoder = make_field(n_colours=2)
    o, d = make_rays(*shape)
    prior = torch.full(shape, 2.0)
    kwargs = {"depth_prior": prior, "per_sample": True, "seed": 3, "backend": backend}
    r = render_rays(planes, decoder, o, d, settings, **kwargs)
    assert r.rgb.shape == (*shape, 2)
    assert r.opacity.shape == r.depth.shape == shape
    assert r.samples is not None
    assert {x.shape for x in r.samples} == {(*shape, n)}
    flat = render_rays(
        planes,
        decoder,
        o.reshape(2, -1, 3),
        d.reshape(2, -1, 3),
        settings,
        **{**kwargs, "depth_prior": prior.reshape(2, -1)},
    )
    for x, y in zip(flatten(r), flatten(flat), strict=True):
        torch.testing.assert_close(x.reshape(y.shape), y, rtol=0, atol=0)
    torch.testing.assert_close(r.samples.weights.sum(-1), r.opacity)
    depth = (r.samples.weights * r.samples.ts).sum(-1) / (r.opacity + settings.depth_eps)
    torch.testing.assert_close(r.depth, depth)
    assert render_rays(planes, decoder, o, d, settings, seed=3, backend=backend).samples is None


def test_objects_do_not_mix(backend: str) -> None:
    planes, decoder = make_field(batch=3)
    o, d = make_rays(3, 4)
    together = render_rays(planes, decoder, o, d, BINS, backend=backend)
    for b in range(3):
        one = slice(b, b + 1)
        alone = render_rays(planes[one], decoder, o[one], d[one], BINS, backend=backend)
        torch.testing.assert_close(together.rgb[one], alone.rgb)


def test_levels_are_summed_and_inputs_need_not_be_contiguous(backend: str) -> None:
    planes, decoder = make_field()
    o, d = make_rays(2, 5)
    strided = planes.transpose(3, 4).contiguous().transpose(3, 4)
    twice = render_rays([strided, strided], decoder, o, d, BINS, backend=backend)
    doubled = render_rays(2 * planes, decoder, o, d, BINS, backend=backend)
    torch.testing.assert_close(twice.rgb, doubled.rgb)
    view = torch.stack([o, d], -1)
    found = render_rays(planes, decoder, view[..., 0], view[..., 1], BINS, backend=backend)
    expected = render_rays(planes, decoder, o, d, BINS, backend=backend)
    torch.testing.assert_close(found.rgb, expected.rgb, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_are_fp32_and_gradients_have_their_inputs_dtype(
    backend: str, dtype: torch.dtype
) -> None:
    planes, decoder = make_field()
    planes = planes.to(dtype).requires_grad_()
    weight = decoder.weights[0].clone().requires_grad_()
    decoder = Decoder([weight, *decoder.weights[1:]], decoder.biases)
    with torch.autocast("cpu", torch.bfloat16):
        r = render_rays(planes, decoder, *make_rays(2, 5), BINS, backend=backend)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert r.rgb.dtype == r.opacity.dtype == r.depth.dtype == expected
    r.rgb.square().sum().backward()
    assert planes.grad is not None
    assert weight.grad is not None
    assert planes.grad.dtype == dtype
    assert weight.grad.dtype == torch.float32


@EACH_PLACEMENT
@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (2, 3, 0)])
def test_no_rays_and_no_objects(
    backend: str, settings: RenderSettings, shape: tuple[int, ...]
) -> None:
    planes, decoder = make_field(batch=shape[0])
    planes.requires_grad_()
    rays = torch.zeros(*shape, 3)
    r = render_rays(planes, decoder, rays, rays, settings, per_sample=True, backend=backend)
    assert r.rgb.shape == (*shape, 3)
    assert r.opacity.shape == r.depth.shape == shape
    assert r.samples is not None
    assert r.samples.weights.shape == (*shape, 6 if settings.quadrature == "bins" else 8)
    if r.rgb.requires_grad:
        r.rgb.sum().backward()
        assert planes.grad is None or not bool(planes.grad.any())
    sigmas, rgbs = query_points(planes, decoder, rays, settings, backend=backend)
    assert sigmas.shape == shape
    assert rgbs.shape == (*shape, 3)


@EACH_PLACEMENT
def test_a_miss_is_background_with_zero_gradients(backend: str, settings: RenderSettings) -> None:
    settings = replace(settings, depth_eps=0.0)
    planes, decoder = make_field()
    planes.requires_grad_()
    weight = decoder.weights[0].clone().requires_grad_()
    decoder = Decoder([weight, decoder.weights[1]], decoder.biases)
    o, d = (x.requires_grad_() for x in (torch.full((2, 3, 3), 5.0), torch.ones(2, 3, 3)))
    r = render_rays(planes, decoder, o, d, settings, per_sample=True, backend=backend)
    background = settings.rgb_range[settings.background == "white"]
    torch.testing.assert_close(r.rgb, torch.full_like(r.rgb, background), rtol=0, atol=0)
    for x in (r.opacity, r.depth):
        torch.testing.assert_close(x, torch.zeros_like(x), rtol=0, atol=0)
    assert r.samples is not None
    for grad in torch.autograd.grad(
        r.rgb.sum() + r.opacity.sum() + r.depth.sum() + r.samples.weights.sum(),
        (planes, weight, o, d),
    ):
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=0)


@EACH_PLACEMENT
@pytest.mark.parametrize("activation", ["exp", "trunc_exp", "softplus", "relu", "none"])
def test_extreme_densities_stay_finite(
    backend: str, settings: RenderSettings, activation: str
) -> None:
    """Raw density 1000 is infinite as exp: opaque at once, with gradients that are numbers."""
    settings = replace(settings, density_activation=activation, outside="empty")  # type: ignore[arg-type]
    planes, decoder = make_field()
    planes.requires_grad_()
    bias = torch.tensor([1000.0, 0.5, 0, -0.5], requires_grad=True)
    decoder = Decoder(decoder.weights, [decoder.biases[0], bias])
    o, d = (x.requires_grad_() for x in make_rays(2, 4))
    r = render_rays(planes, decoder, o, d, settings, seed=1, backend=backend)
    assert bool((r.opacity > 0.99).any())
    for grad in torch.autograd.grad(r.rgb.sum() + r.depth.sum(), (planes, bias, o, d)):
        assert bool(grad.isfinite().all())
