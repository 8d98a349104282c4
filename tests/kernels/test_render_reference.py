"""`render_rays` against loops over the published formulas: values and every gradient, in fp64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fastrecon_kernels import Decoder, Rendering, RenderSettings, build_pyramid, render_rays
from torch import Tensor

from tests.kernels import oracle

RayOracle = Callable[[oracle.Field, Tensor, Tensor], oracle.Pixel]
F64 = torch.float64


class Scene:
    """Two small objects with generic numbers, and rays at them; the last ray of each misses."""

    def __init__(
        self,
        settings: RenderSettings,
        *,
        activation: str = "silu",
        n_levels: int = 1,
        n_colours: int = 3,
        distance: float = 2.7,
        bias: bool = True,
    ) -> None:
        g = torch.Generator().manual_seed(7)
        channels = 3

        def randn(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(*shape, generator=g, dtype=F64) * scale).requires_grad_()

        self.settings = settings
        self.planes = randn(2, 3, channels, 8, 12)
        self.n_levels = n_levels
        widths = [channels * (3 if settings.reduction == "concat" else 1), 5, 5, 1 + n_colours]
        self.weights = [randn(b, a) for a, b in itertools.pairwise(widths)]
        self.biases = [randn(w, scale=0.5) if bias else None for w in widths[1:]]
        if self.biases[-1] is not None:
            self.biases[-1].detach()[0] += 2  # dense enough for samples to hide one another
        self.activation = activation
        directions = torch.randn(2, 3, 3, generator=g, dtype=F64)
        origins = distance * directions / directions.norm(dim=-1, keepdim=True)
        targets = 0.6 * settings.radius * torch.randn(2, 3, 3, generator=g, dtype=F64).clamp(-1, 1)
        towards = targets - origins
        towards[:, -1] *= -1
        scales = torch.tensor([0.8, 1.0, 1.3], dtype=F64)[:, None]
        self.rays_o = origins.requires_grad_()
        self.rays_d = (towards / towards.norm(dim=-1, keepdim=True) * scales).requires_grad_()

    @property
    def levels(self) -> tuple[Tensor, ...]:
        return build_pyramid(self.planes, self.n_levels)

    @property
    def decoder(self) -> Decoder:
        return Decoder(self.weights, self.biases, self.activation)

    @property
    def leaves(self) -> dict[str, Tensor]:
        named = {"planes": self.planes, "rays_o": self.rays_o, "rays_d": self.rays_d}
        named |= {f"weight {i}": w for i, w in enumerate(self.weights)}
        return named | {f"bias {i}": b for i, b in enumerate(self.biases) if b is not None}

    def render(self, **kwargs) -> Rendering:
        return render_rays(
            self.levels,
            self.decoder,
            self.rays_o,
            self.rays_d,
            self.settings,
            per_sample=True,
            backend="reference",
            **kwargs,
        )

    def brute_force(self, ray: Callable[[oracle.Field, Tensor, Tensor, int, int], oracle.Pixel]):
        """Every ray by itself -> (rgb, opacity, depth, weights, ts) of shape (B, N, ...)."""
        s = self.settings
        levels = self.levels
        rows = []
        for b in range(2):
            field = oracle.Field(
                [level[b] for level in levels],
                self.weights,
                self.biases,
                self.activation,
                s.radius,
                s.axes,
                s.reduction,
                s.rgb_padding,
                s.outside == "empty",
            )
            rows.append([ray(field, self.rays_o[b, n], self.rays_d[b, n], b, n) for n in range(3)])

        def stack(i: int) -> Tensor:
            return torch.stack(
                [torch.stack([torch.as_tensor(p[i], dtype=F64) for p in row]) for row in rows]
            )

        return [stack(i) for i in range(5)]


def assert_same(scene: Scene, found: Rendering, expected: list[Tensor]) -> None:
    """Values and gradients of all leaves under one random cotangent, names in the message."""
    assert found.samples is not None
    outputs = [found.rgb, found.opacity, found.depth, found.samples.weights]
    names = ["rgb", "opacity", "depth", "weights"]
    for name, x, y in zip(names, outputs, expected[:4], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(found.samples.ts, expected[4], rtol=1e-9, atol=1e-10)
    assert float(found.opacity.detach().max()) > 0.2
    g = torch.Generator().manual_seed(3)
    cotangents = [torch.randn(x.shape, generator=g, dtype=F64) for x in outputs]
    leaves = scene.leaves
    mine = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
    theirs = torch.autograd.grad(expected[:4], list(leaves.values()), cotangents)
    for name, x, y in zip(leaves, mine, theirs, strict=True):
        assert float(y.abs().max()) > 1e-4, f"the test does not exercise {name}"
        torch.testing.assert_close(
            x, y, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"gradient of {n}: {m}"
        )


@pytest.mark.parametrize("activation", ["silu", "relu", "softplus"])
@pytest.mark.parametrize("n_colours", [1, 3])
def test_triposr_is_the_published_renderer(activation: str, n_colours: int) -> None:
    scene = Scene(RenderSettings.triposr(n_samples=7), activation=activation, n_colours=n_colours)
    expected = scene.brute_force(lambda f, o, d, b, n: oracle.triposr(f, o, d, 7))
    assert_same(scene, scene.render(), expected)


PUBLISHED = {
    "g3dr": (
        RenderSettings.g3dr(n_samples=6, n_importance=5, stratified=False),
        oracle.Film([0.0] * 3, low=-1, high=1),
        3,
    ),
    "g3dr without fine samples": (
        RenderSettings.g3dr(n_samples=6, n_importance=0, stratified=False),
        oracle.Film([0.0] * 3, low=-1, high=1),
        2,
    ),
    "eg3d": (
        RenderSettings.eg3d(n_samples=5, n_importance=6, stratified=False),
        oracle.Film([0.0] * 3, low=-1, high=1, depth_eps=0),
        1,
    ),
    "openlrm": (
        RenderSettings.openlrm(n_samples=7, n_importance=4, stratified=False, near_far=(1.3, 4.1)),
        oracle.Film([1.0] * 3),
        1,
    ),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_eg3d_family_is_the_published_renderer(name: str) -> None:
    settings, film, n_levels = PUBLISHED[name]
    scene = Scene(replace(settings), activation="softplus", n_levels=n_levels)

    def ray(field: oracle.Field, o: Tensor, d: Tensor, b: int, n: int) -> oracle.Pixel:
        if isinstance(settings.near_far, str):
            box = oracle.chord(o, d, settings.radius)
        else:
            box = oracle.Box(*settings.near_far)
        if not box.far > box.near:
            return film.miss(settings.n_samples + settings.n_importance - 1)
        return oracle.eg3d(field, o, d, box, settings.n_samples, settings.n_importance, film)

    assert_same(scene, scene.render(), scene.brute_force(ray))


TS = [[1.31, 1.52, 2.03, 2.4, 2.45, 3.3], [1.9, 2.2, 2.3, 2.9, 3.01, 3.02], [0.1, 0.5, 1, 2, 3, 4]]


@pytest.mark.parametrize("activation", ["exp", "trunc_exp", "softplus", "relu", "none"])
@pytest.mark.parametrize("reduction", ["concat", "sum", "mean"])
def test_explicit_ts_with_bins(activation: str, reduction: str) -> None:
    settings = RenderSettings(
        radius=1.4,
        n_samples=2,
        reduction=reduction,  # type: ignore[arg-type]
        density_activation=activation,  # type: ignore[arg-type]
        density_shift=0.4,
        density_scale=1.5,
        axes=("zx", "yx", "yz"),
        background=(0.2, 0.9),
        rgb_range=(-0.5, 2.0),
    )
    scene = Scene(settings, n_colours=2, bias=reduction != "sum")
    film = oracle.Film([0.2, 0.9], low=-0.5, high=2)

    def ray(field: oracle.Field, o: Tensor, d: Tensor, b: int, n: int) -> oracle.Pixel:
        def sigma(raw: Tensor) -> Tensor:
            return 1.5 * oracle.density(raw + 0.4, activation)

        return oracle.bins(field, o, d, TS[n], oracle.bin_widths(TS[n]), sigma, film)

    ts = torch.tensor(TS, dtype=F64).expand(2, 3, 6)
    assert_same(scene, scene.render(ts=ts), scene.brute_force(ray))


def test_explicit_ts_under_chord_are_fractions_of_near_far() -> None:
    scene = Scene(RenderSettings(interval="chord", near_far=(0.5, 4.5)))

    def ray(field: oracle.Field, o: Tensor, d: Tensor, b: int, n: int) -> oracle.Pixel:
        lengths = [x / 4.0 for x in oracle.bin_widths(TS[n])]
        film = oracle.Film([1.0] * 3)
        return oracle.bins(field, o, d, TS[n], lengths, lambda x: torch.exp(x - 1), film)

    ts = torch.tensor(TS, dtype=F64).expand(2, 3, 6)
    assert_same(scene, scene.render(ts=ts), scene.brute_force(ray))


PRIORS = [[2.1, math.nan, 1.9], [math.nan, 2.35, 0.6]]


@pytest.mark.parametrize("quadrature", ["bins", "midpoint"])
def test_depth_kernel_scales_gradients_and_nothing_else(quadrature: str) -> None:
    settings = RenderSettings(radius=1.2, quadrature=quadrature)  # type: ignore[arg-type]
    scene = Scene(settings)

    def ray(field: oracle.Field, o: Tensor, d: Tensor, b: int, n: int) -> oracle.Pixel:
        film = oracle.Film([1.0] * 3, prior=PRIORS[b][n])

        def sigma(raw: Tensor) -> Tensor:
            return torch.exp(raw - 1)

        if quadrature == "midpoint":
            return oracle.midpoint(field, o, d, TS[n], sigma, film)
        return oracle.bins(field, o, d, TS[n], oracle.bin_widths(TS[n]), sigma, film)

    ts = torch.tensor(TS, dtype=F64).expand(2, 3, 6)
    prior = torch.tensor(PRIORS, dtype=F64, requires_grad=True)
    found = scene.render(ts=ts, depth_prior=prior)
    plain = scene.render(ts=ts)
    torch.testing.assert_close(found.rgb, plain.rgb, rtol=0, atol=0)
    assert_same(scene, found, scene.brute_force(ray))
    assert torch.autograd.grad(found.rgb.sum(), prior, allow_unused=True) == (None,)


def test_depth_kernel_of_nan_everywhere_is_no_kernel() -> None:
    scene = Scene(RenderSettings.g3dr(n_samples=6, n_importance=0, stratified=False))
    grads = [
        torch.autograd.grad(scene.render(depth_prior=p).rgb.square().sum(), scene.planes)[0]
        for p in (None, torch.full((2, 3), math.nan))
    ]
    torch.testing.assert_close(*grads, rtol=0, atol=0)


@pytest.mark.parametrize("stop", [0.03, 0.3, 0.9])
def test_early_stop_truncates_the_sum(stop: float) -> None:
    settings = RenderSettings(radius=1.4, density_scale=8.0, early_stop=stop)
    scene = Scene(settings)

    def ray(field: oracle.Field, o: Tensor, d: Tensor, b: int, n: int) -> oracle.Pixel:
        film = oracle.Film([1.0] * 3, early_stop=stop)
        widths = oracle.bin_widths(TS[n])
        return oracle.bins(field, o, d, TS[n], widths, lambda x: 8 * torch.exp(x - 1), film)

    ts = torch.tensor(TS, dtype=F64).expand(2, 3, 6)
    found = scene.render(ts=ts)
    assert_same(scene, found, scene.brute_force(ray))
    scene.settings = replace(settings, early_stop=0.0)
    exact = scene.render(ts=ts)
    assert bool(((exact.opacity - found.opacity).abs() <= stop).all())
    assert bool(((exact.rgb - found.rgb).abs() <= stop).all())
    assert found.samples is not None
    assert bool((found.samples.weights == 0).any()), "nothing was stopped"


GRADCHECKS = {
    "triposr": RenderSettings.triposr(n_samples=4, near_far=(1.6, 3.9)),
    "g3dr": RenderSettings.g3dr(n_samples=4, n_importance=0, near_far=(1.6, 3.9)),
    "trunc_exp": RenderSettings(n_samples=3, near_far=(1.6, 3.9), background="black"),
}


@pytest.mark.parametrize("name", list(GRADCHECKS))
def test_first_and_second_derivatives(name: str) -> None:
    """Fixed `near_far` and no fine samples: sample positions must not move with the inputs."""
    scene = Scene(GRADCHECKS[name], activation="softplus" if name == "g3dr" else "silu")
    n = len(scene.weights)

    def outputs(planes: Tensor, o: Tensor, d: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        decoder = Decoder(parameters[:n], parameters[n:], scene.activation)
        r = render_rays(
            planes, decoder, o, d, scene.settings, per_sample=True, seed=5, backend="reference"
        )
        assert r.samples is not None
        return r.rgb, r.opacity, r.depth, r.samples.weights

    inputs = tuple(scene.leaves.values())
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, inputs, fast_mode=True)
