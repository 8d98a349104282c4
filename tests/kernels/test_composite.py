"""`composite`: the reference against arithmetic and loops, the kernels against the reference."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from fastrecon_kernels import DepthKernel, Rendering, RenderSettings, composite, depth_kernel
from fastrecon_kernels.composite import composite_reference, half_way_deltas
from fastrecon_kernels.composite.launch import composite_backward, composite_forward
from torch import Tensor

ACTIVATIONS = ("exp", "trunc_exp", "softplus", "relu", "none")
BACKENDS = ("reference", "triton")
LN2 = math.log(2)
# sigma = max(raw, 0): densities can be written down directly.
PLAIN = RenderSettings(density_activation="none", density_shift=0.0, depth_eps=0.0)
# Interpreted kernels compute the unselected side of `where` in NumPy, which warns of inf - inf.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class Records(NamedTuple):
    raw: Tensor
    rgbs: Tensor
    ts: Tensor
    deltas: Tensor | None
    prior: Tensor | None

    def to(self, *args: Any) -> Records:
        return Records(*(None if x is None else x.to(*args) for x in self))  # type: ignore[arg-type]


def records(
    n: int, s: int, k: int = 3, *, deltas: bool = True, prior: bool = False, spread: float = 2.0
) -> Records:
    """Random fp32 samples between t = 1 and 3 with gaps; every third ray lacks a prior."""
    generator = torch.Generator().manual_seed(n * 1000 + s * 10 + k)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    lengths = uniform(n, s) * (2 / max(s, 1))
    lengths[:, 2::5] = 0
    known = 1 + 2 * uniform(n)
    known[1::3] = math.nan
    return Records(
        torch.randn(n, s, generator=generator) * spread,
        uniform(n, s, k),
        1 + (uniform(n, s) + 0.05).cumsum(-1) * (2 / max(s, 1)),
        lengths if deltas else None,
        known if prior else None,
    )


def evaluate(
    r: Records, settings: RenderSettings, backend: str, *, per_sample: bool = True
) -> dict[str, Tensor]:
    """Every result and, from random cotangents, every gradient, by name."""
    raw, rgbs = r.raw.clone().requires_grad_(), r.rgbs.clone().requires_grad_()
    out = composite(
        raw,
        rgbs,
        r.ts,
        settings,
        deltas=r.deltas,
        depth_prior=r.prior,
        per_sample=per_sample,
        backend=backend,
    )
    results = {"rgb": out.rgb, "opacity": out.opacity, "depth": out.depth}
    if out.samples is not None:
        results["weights"] = out.samples.weights
    generator = torch.Generator().manual_seed(7)
    loss = torch.zeros((), device=raw.device)
    for x in results.values():
        loss = loss + (x * torch.randn(x.shape, generator=generator).to(x)).sum()
    d_raw, d_rgbs = torch.autograd.grad(loss, (raw, rgbs))
    if out.samples is not None:
        results |= {"ts": out.samples.ts, "deltas": out.samples.deltas}
    return {k: v.detach() for k, v in results.items()} | {"d_raw": d_raw, "d_rgbs": d_rgbs}


def check_kernels(
    r: Records,
    settings: RenderSettings,
    device: torch.device,
    *,
    tolerance: float = 1e-5,
    per_sample: bool = True,
) -> dict[str, Tensor]:
    """The kernels' results and gradients equal those of the reference in fp64."""
    exact = evaluate(r.to(torch.float64), settings, "reference", per_sample=per_sample)
    got = evaluate(r.to(device), settings, "triton", per_sample=per_sample)
    for name, expected in exact.items():
        error = (got[name].cpu().double() - expected).abs()
        scale = max(expected.abs().max().item(), 1e-6) if expected.numel() else 1.0
        assert not error.isnan().any(), f"{name} has NaN"
        assert (error <= tolerance * scale).all(), f"{name}: {error.max().item() / scale:.1e}"
    return got


def line(
    sigmas: list[float],
    deltas: list[float] | None,
    settings: RenderSettings = PLAIN,
    *,
    backend: str = "reference",
    device: torch.device | str = "cpu",
    ts: list[float] | None = None,
    rgbs: list[list[float]] | None = None,
) -> Rendering:
    """One ray; by default samples at t = 1, 2, ... with colours (1, 0, 0), (0, 1, 0), ..."""
    n = len(sigmas)
    colours = torch.eye(max(n, 3))[:n, :3] if rgbs is None else torch.tensor(rgbs)
    return composite(
        torch.tensor(sigmas, device=device),
        colours.to(device),
        torch.tensor(ts or [float(i) for i in range(1, n + 1)], device=device),
        settings,
        deltas=None if deltas is None else torch.tensor(deltas, device=device),
        per_sample=True,
        backend=backend,
    )


def check_samples(out: Rendering, **expected: list[float]) -> None:
    assert out.samples is not None
    for name, values in expected.items():
        torch.testing.assert_close(getattr(out.samples, name).cpu(), torch.tensor(values), msg=name)


# --- arithmetic that a person can do ----------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_then_opaque(backend: str, device: torch.device) -> None:
    out = line([LN2, 1e6], [1.0, 1.0], backend=backend, device=device)
    check_samples(out, weights=[0.5, 0.5], ts=[1.0, 2.0], deltas=[1.0, 1.0])
    torch.testing.assert_close(out.rgb.cpu(), torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(out.opacity.item(), 1.0)
    torch.testing.assert_close(out.depth.item(), 1.5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_background_fills_what_is_left(backend: str, device: torch.device) -> None:
    settings = replace(PLAIN, background=(0.2, 0.4, 0.6), rgb_range=(-1.0, 1.0), depth_eps=0.5)
    out = line([LN2, 0.0], [1.0, 1.0], settings, backend=backend, device=device)
    # unit colour (0.5 + 0.5 * 0.2, 0.5 * 0.4, 0.5 * 0.6), stretched to [-1, 1]
    torch.testing.assert_close(out.rgb.cpu(), torch.tensor([0.2, -0.6, -0.4]))
    torch.testing.assert_close(out.depth.item(), 0.5 / (0.5 + 0.5))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("background", ["white", "black"])
def test_miss_is_background_at_depth_0(backend: str, background: str, device: torch.device) -> None:
    settings = replace(PLAIN, background=background)
    out = line([1.0, math.inf], [0.0, 0.0], settings, ts=[0.0, 0.0], backend=backend, device=device)
    torch.testing.assert_close(out.rgb.cpu(), torch.full((3,), float(background == "white")))
    assert out.opacity.item() == 0
    assert out.depth.item() == 0
    r = Records(torch.ones(1, 2), torch.ones(1, 2, 3), torch.zeros(1, 2), torch.zeros(1, 2), None)
    got = evaluate(r.to(device), settings, backend)
    assert (got["d_raw"] == 0).all()
    assert (got["d_rgbs"] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interval_of_no_length_is_clear_however_dense(
    backend: str, device: torch.device
) -> None:
    out = line([math.inf, LN2, math.inf], [0.0, 1.0, 1.0], backend=backend, device=device)
    check_samples(out, weights=[0.0, 0.5, 0.5])


@pytest.mark.parametrize("backend", BACKENDS)
def test_deltas_reach_half_way_to_the_neighbours(backend: str, device: torch.device) -> None:
    even = line([1.0] * 4, None, ts=[2.0, 2.5, 3.0, 3.5], backend=backend, device=device)
    check_samples(even, deltas=[0.5] * 4)
    uneven = line([1.0] * 3, None, ts=[1.0, 2.0, 5.0], backend=backend, device=device)
    check_samples(uneven, deltas=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_midpoint_averages_over_the_interval(backend: str, device: torch.device) -> None:
    settings = replace(PLAIN, quadrature="midpoint")
    out = line([0.0, LN2, 1e6], None, settings, ts=[1.0, 3.0, 4.0], backend=backend, device=device)
    check_samples(out, weights=[0.5, 0.5], ts=[2.0, 3.5], deltas=[2.0, 1.0])
    torch.testing.assert_close(out.rgb.cpu(), torch.tensor([0.25, 0.5, 0.25]))
    torch.testing.assert_close(out.depth.item(), 2.75)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chord_intervals_are_shares_of_the_ray(backend: str, device: torch.device) -> None:
    settings = replace(PLAIN, interval="chord")
    out = line([2 * LN2, 1e6], [3.0, 3.0], settings, backend=backend, device=device)
    check_samples(out, weights=[0.5, 0.5], deltas=[3.0, 3.0])
    torch.testing.assert_close(out.depth.item(), 1.5)  # t, not a fraction


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_end_empties_an_interval(backend: str, device: torch.device) -> None:
    settings = replace(PLAIN, quadrature="midpoint")
    sigmas = [math.inf, -math.inf, 1.0, 2 * LN2 - 1.0]
    out = line(sigmas, None, settings, rgbs=[[1.0]] * 4, backend=backend, device=device)
    check_samples(out, weights=[0.0, 0.0, 0.5])


@pytest.mark.parametrize("backend", BACKENDS)
def test_early_stop_truncates_the_sum_and_its_gradient(backend: str, device: torch.device) -> None:
    out = line([LN2] * 4, [1.0] * 4, replace(PLAIN, early_stop=0.2), backend=backend, device=device)
    check_samples(out, weights=[0.5, 0.25, 0.125, 0.0])  # T = 1, 1/2, 1/4, 1/8
    r = Records(torch.full((1, 4), LN2), torch.rand(1, 4, 3), torch.arange(4.0)[None], None, None)
    r = r._replace(deltas=torch.ones(1, 4)).to(device)
    stopped = evaluate(r, replace(PLAIN, early_stop=0.2), backend, per_sample=False)
    cut = Records(r.raw[:, :3], r.rgbs[:, :3], r.ts[:, :3], torch.ones(1, 3), None).to(device)
    whole = evaluate(cut, PLAIN, backend, per_sample=False)
    for name in ("d_raw", "d_rgbs"):
        torch.testing.assert_close(stopped[name][:, :3], whole[name], msg=name)
        assert (stopped[name][:, 3] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_trunc_exp_clamps_the_gradient_only(backend: str, device: torch.device) -> None:
    raw = torch.tensor([20.0], device=device, requires_grad=True)
    settings = RenderSettings(density_shift=0.0)
    length = torch.tensor([1e-9], device=device)
    out = composite(raw, raw.new_ones(1, 3), length, settings, deltas=length, backend=backend)
    tau = 1e-9 * math.exp(20)
    torch.testing.assert_close(out.opacity.item(), 1 - math.exp(-tau), rtol=1e-5, atol=0)
    out.opacity.backward()
    assert raw.grad is not None
    expected = math.exp(-tau) * 1e-9 * math.exp(15)
    torch.testing.assert_close(raw.grad.item(), expected, rtol=1e-5, atol=0)


# --- the definition ---------------------------------------------------------------------------


def brute_force(r: Records, settings: RenderSettings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """rgb, opacity, depth and weights, one ray and one sample at a time in Python floats."""
    act = {
        "exp": math.exp,
        "trunc_exp": math.exp,
        "softplus": lambda x: math.log1p(math.exp(x)),
        "relu": lambda x: max(x, 0.0),
        "none": lambda x: max(x, 0.0),
    }[settings.density_activation]
    low, high = settings.rgb_range
    rows: list[tuple[list[float], float, float, list[float]]] = []
    for n in range(r.raw.shape[0]):
        raw, colour, t = r.raw[n].tolist(), r.rgbs[n].tolist(), r.ts[n].tolist()
        if settings.quadrature == "midpoint":
            delta = [b - a for a, b in pairwise(t)]
            raw, t = ([(a + b) / 2 for a, b in pairwise(x)] for x in (raw, t))
            pairs = pairwise(colour)
            colour = [[(a + b) / 2 for a, b in zip(p, q, strict=True)] for p, q in pairs]
        else:
            assert r.deltas is not None
            delta = r.deltas[n].tolist()
        lengths = [x / sum(delta) for x in delta] if settings.interval == "chord" else delta
        through, weights = 1.0, []
        for x, length in zip(raw, lengths, strict=True):
            sigma = settings.density_scale * act(x + settings.density_shift)
            alpha = 1 - math.exp(-sigma * length)
            weights.append(0.0 if through < settings.early_stop else alpha * through)
            through *= 1 - alpha
        total = sum(weights)
        unit = [
            sum(w * c[k] for w, c in zip(weights, colour, strict=True)) + (1 - total) * b
            for k, b in enumerate(settings.background_colour(r.rgbs.shape[-1]))
        ]
        moment = sum(w * x for w, x in zip(weights, t, strict=True))
        rgb = [low + (high - low) * c for c in unit]
        rows.append((rgb, total, moment / (total + settings.depth_eps), weights))
    rgb, opacity, depth, weights = (
        torch.tensor([row[i] for row in rows], dtype=torch.float64) for i in range(4)
    )
    return rgb, opacity, depth, weights


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"background": (0.1, 0.5, 0.9), "rgb_range": (-1.0, 1.0), "depth_eps": 0.0},
        {"interval": "chord", "density_scale": 3.0},
        {"quadrature": "midpoint", "density_shift": 0.5, "background": "black"},
        {"quadrature": "midpoint", "density_scale": 10.0, "early_stop": 0.3},
    ],
    ids=["bins", "chord", "midpoint", "early stop"],
)
def test_reference_is_the_loop(activation: str, options: dict[str, Any]) -> None:
    settings = RenderSettings(density_activation=activation, **options)  # type: ignore[arg-type]
    r = records(5, 7, deltas=settings.quadrature == "bins").to(torch.float64)
    out = composite(r.raw, r.rgbs, r.ts, settings, deltas=r.deltas, per_sample=True)
    assert out.samples is not None
    rgb, opacity, depth, weights = brute_force(r, settings)
    torch.testing.assert_close(out.rgb, rgb)
    torch.testing.assert_close(out.opacity, opacity)
    torch.testing.assert_close(out.depth, depth)
    torch.testing.assert_close(out.samples.weights, weights)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_sum_to_what_the_ray_absorbs(backend: str, device: torch.device) -> None:
    r = records(6, 33).to(device)
    out = composite(r.raw, r.rgbs, r.ts, PLAIN, deltas=r.deltas, per_sample=True, backend=backend)
    assert out.samples is not None
    assert r.deltas is not None
    absorbed = 1 - torch.exp(-(r.raw.clamp(min=0) * r.deltas).sum(-1))
    torch.testing.assert_close(out.samples.weights.sum(-1), absorbed)
    torch.testing.assert_close(out.opacity, absorbed)


@pytest.mark.parametrize(
    "settings",
    [
        RenderSettings.triposr(depth_eps=0.0),
        RenderSettings.g3dr(background="white"),
        RenderSettings(density_scale=2.0),
    ],
    ids=["chord exp", "midpoint softplus", "trunc_exp"],
)
def test_reference_has_first_and_second_derivatives(settings: RenderSettings) -> None:
    r = records(2, 4, 2, deltas=settings.quadrature == "bins").to(torch.float64)

    def run(raw: Tensor, rgbs: Tensor) -> tuple[Tensor, ...]:
        out = composite(raw, rgbs, r.ts, settings, deltas=r.deltas, per_sample=True)
        assert out.samples is not None
        return out.rgb, out.opacity, out.depth, out.samples.weights

    inputs = (r.raw.requires_grad_(), r.rgbs.requires_grad_())
    assert torch.autograd.gradcheck(run, inputs)
    if settings.density_activation != "trunc_exp":  # whose backward is not meant to be derived
        assert torch.autograd.gradgradcheck(run, inputs)


# --- the depth kernel -------------------------------------------------------------------------


def test_depth_kernel_values() -> None:
    t, known = torch.tensor([4.0, 4.08, 4.1732, 4.311, 9.0]), torch.tensor(4.0)
    # 1.25 exp(-0.1732^2 / 0.03) = 1.25 / e; 1 up to 0.0818 away, 0.05 from 0.3108 on
    expected = torch.tensor([1.0, 1.0, 1.25 / math.e, 0.05, 0.05])
    torch.testing.assert_close(depth_kernel(t, known), expected, rtol=1e-4, atol=0)
    assert (depth_kernel(t, torch.tensor(math.nan)) == 1).all()
    wide = depth_kernel(t, known, s1=1.0, s2=1.0, c_min=0.0, c_max=0.5)
    torch.testing.assert_close(wide[4].item(), math.exp(-25), rtol=1e-4, atol=0)
    assert wide[0] == 0.5


def alphas_to_loss(alphas: Tensor, rgbs: Tensor, ts: Tensor, cotangents: list[Tensor]) -> Tensor:
    """A loss of all results on black, as plain autograd sees it; (N, M) alphas."""
    keep = torch.cat([torch.ones_like(alphas[:, :1]), (1 - alphas).cumprod(-1)[:, :-1]], -1)
    weights = alphas * keep
    depth = (weights * ts).sum(-1) / (weights.sum(-1) + 1e-3)
    rgb = 2 * (weights[..., None] * rgbs).sum(-2) - 1
    results = (rgb, weights.sum(-1), depth, weights)
    return sum(((x * c).sum() for x, c in zip(results, cotangents, strict=True)), torch.zeros(()))


def test_depth_kernel_scales_the_gradients_of_alpha_and_colour() -> None:
    """An autograd evaluation up to alpha and colour, then the chain by hand (EG3D intervals)."""
    settings = RenderSettings.g3dr(depth_kernel=DepthKernel(1.0, 0.3, 0.1, 0.8))
    r = records(4, 6, prior=True, deltas=False).to(torch.float64)
    assert r.prior is not None
    generator = torch.Generator().manual_seed(3)
    shapes = [(4, 3), (4,), (4,), (4, 5)]
    cotangents = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]

    x = (r.raw[:, 1:] + r.raw[:, :-1]) / 2 - 1
    t, delta = (r.ts[:, 1:] + r.ts[:, :-1]) / 2, r.ts.diff(dim=-1)
    sigma = torch.log1p(x.exp())
    alphas = (1 - torch.exp(-sigma * delta)).requires_grad_()
    colours = ((r.rgbs[:, 1:] + r.rgbs[:, :-1]) / 2).requires_grad_()
    loss = alphas_to_loss(alphas, colours, t, cotangents)
    d_alphas, d_colours = torch.autograd.grad(loss, (alphas, colours))
    k = (1.0 * torch.exp(-((t - r.prior[:, None]) ** 2) / 0.3)).clamp(0.1, 0.8)
    k[r.prior.isnan()] = 1
    d_x = k * d_alphas * delta * torch.exp(-sigma * delta) * torch.sigmoid(x)
    d_colours = k[..., None] * d_colours
    zero = torch.zeros(4, 1, dtype=torch.float64)
    d_raw = (torch.cat([d_x, zero], 1) + torch.cat([zero, d_x], 1)) / 2
    none = torch.zeros(4, 1, 3, dtype=torch.float64)
    d_rgbs = (torch.cat([d_colours, none], 1) + torch.cat([none, d_colours], 1)) / 2

    raw, rgbs = r.raw.requires_grad_(), r.rgbs.requires_grad_()
    ts, prior = r.ts.requires_grad_(), r.prior.requires_grad_()
    out = composite(raw, rgbs, ts, settings, depth_prior=prior, per_sample=True)
    assert out.samples is not None
    results = (out.rgb, out.opacity, out.depth, out.samples.weights)
    torch.autograd.backward(results, cotangents)  # type: ignore[arg-type]
    torch.testing.assert_close(raw.grad, d_raw)
    torch.testing.assert_close(rgbs.grad, d_rgbs)
    assert ts.grad is None
    assert prior.grad is None


def test_depth_kernel_gradient_is_the_papers_formula() -> None:
    """d sigma_i = k_i delta_i (T_{i+1} g_i - suffix_i) as loops, bins on a coloured background."""
    settings = replace(PLAIN, background=(0.3,), rgb_range=(-1.0, 1.0), depth_eps=1e-3)
    raw, colours = torch.tensor([0.7, 0.2, 1.5, 0.4]), torch.tensor([0.1, 0.9, 0.4, 0.6])
    r = Records(
        raw.double()[None],
        colours.double()[None, :, None],
        torch.tensor([[1.0, 1.5, 2.5, 3.0]], dtype=torch.float64),
        torch.tensor([[0.5, 1.0, 0.8, 0.5]], dtype=torch.float64),
        torch.tensor([1.6], dtype=torch.float64),
    )
    assert r.deltas is not None
    assert r.prior is not None
    delta, t = r.deltas[0].tolist(), r.ts[0].tolist()
    d_rgb, d_opacity, d_depth = 0.8, -0.3, 1.1
    through, weights = [1.0], []
    for sigma, length in zip(r.raw[0].tolist(), delta, strict=True):
        weights.append(through[-1] * (1 - math.exp(-sigma * length)))
        through.append(through[-1] * math.exp(-sigma * length))
    total = sum(weights)
    depth = sum(w * x for w, x in zip(weights, t, strict=True)) / (total + 1e-3)
    g = [
        2 * d_rgb * (c - 0.3) + d_opacity + d_depth * (x - depth) / (total + 1e-3)
        for c, x in zip(r.rgbs[0, :, 0].tolist(), t, strict=True)
    ]
    k = [min(max(1.25 * math.exp(-((x - 1.6) ** 2) / 0.03), 0.05), 1.0) for x in t]
    suffix = [sum(weights[j] * g[j] for j in range(i + 1, 4)) for i in range(4)]
    d_sigma = [k[i] * delta[i] * (through[i + 1] * g[i] - suffix[i]) for i in range(4)]

    raw, rgbs = r.raw.requires_grad_(), r.rgbs.requires_grad_()
    out = composite(raw, rgbs, r.ts, settings, deltas=r.deltas, depth_prior=r.prior)
    loss = d_rgb * out.rgb.sum() + d_opacity * out.opacity.sum() + d_depth * out.depth.sum()
    d_raw, d_rgbs = torch.autograd.grad(loss, (raw, rgbs))
    torch.testing.assert_close(d_raw[0], torch.tensor(d_sigma, dtype=torch.float64))
    expected = [2 * k[i] * weights[i] * d_rgb for i in range(4)]
    torch.testing.assert_close(d_rgbs[0, :, 0], torch.tensor(expected, dtype=torch.float64))


# --- the kernels ------------------------------------------------------------------------------


@pytest.mark.usefixtures("poison_empty")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("quadrature", ["bins", "midpoint"])
def test_kernels_agree(activation: str, quadrature: str, device: torch.device) -> None:
    settings = RenderSettings(
        quadrature=quadrature,  # type: ignore[arg-type]
        density_activation=activation,  # type: ignore[arg-type]
        density_scale=3.0,
        rgb_range=(-1.0, 1.0),
        background=(0.2, 0.5, 0.7),
        depth_kernel=DepthKernel(1.1, 0.2, 0.1, 0.9),
    )
    check_kernels(records(5, 9, prior=True, deltas=quadrature == "bins"), settings, device)


CASES: dict[str, tuple[Records, RenderSettings]] = {
    "one ray, one sample": (records(1, 1, 1), RenderSettings()),
    "two samples": (records(3, 2, deltas=False), RenderSettings.g3dr()),
    "one interval, no colours but one": (records(2, 2, 1, deltas=False), RenderSettings.eg3d()),
    "63 rays": (records(63, 4, prior=True), RenderSettings(depth_eps=0.0)),
    "64 rays": (records(64, 4), RenderSettings(depth_eps=0.0)),
    "65 rays": (records(65, 4), RenderSettings(depth_eps=0.0)),
    "7 colours, chord": (records(3, 20, 7), RenderSettings.triposr(background=(0.1,) * 7)),
    "32 colours": (records(3, 12, 32, deltas=False), RenderSettings.eg3d()),
    "chord of half-way bins": (records(3, 11, deltas=False), RenderSettings.triposr()),
    "half-way bins": (records(3, 11, deltas=False), RenderSettings()),
    "128 samples": (records(3, 128), RenderSettings.triposr()),
    "129 samples, two chunks": (records(3, 129, prior=True), RenderSettings()),
    "129 intervals, two chunks": (records(3, 130, deltas=False, prior=True), RenderSettings.g3dr()),
    "three chunks": (records(2, 300, deltas=False), RenderSettings(density_scale=4.0)),
    "early stop in the second chunk": (
        records(2, 200, deltas=False),
        RenderSettings.g3dr(density_scale=2.0, early_stop=0.15),
    ),
}


@pytest.mark.usefixtures("poison_empty")
@pytest.mark.parametrize("case", CASES)
def test_kernels_agree_at_sizes(case: str, device: torch.device) -> None:
    check_kernels(*CASES[case], device)


@pytest.mark.usefixtures("poison_empty")
def test_kernels_without_per_sample_results(device: torch.device) -> None:
    check_kernels(records(4, 10, prior=True), RenderSettings(), device, per_sample=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("quadrature", ["bins", "midpoint"])
def test_kernels_take_half_precision(
    dtype: torch.dtype, quadrature: str, device: torch.device
) -> None:
    settings = RenderSettings(quadrature=quadrature)  # type: ignore[arg-type]
    r = records(4, 9, deltas=quadrature == "bins", prior=True)
    r = r._replace(raw=r.raw.to(dtype), rgbs=r.rgbs.to(dtype))
    # The interpreter cuts fp32 to bf16 where a GPU rounds: up to 2^-7 of the value.
    got = check_kernels(r, settings, device, tolerance=8e-3 if dtype == torch.bfloat16 else 6e-4)
    for name, x in got.items():
        assert x.dtype == (dtype if name in ("d_raw", "d_rgbs") else torch.float32), name


def test_kernels_read_any_strides_and_shape(device: torch.device) -> None:
    r = records(6, 8, prior=True).to(device)
    assert r.deltas is not None
    assert r.prior is not None
    settings = RenderSettings()
    flat = composite(r.raw, r.rgbs, r.ts, settings, deltas=r.deltas, backend="triton")

    def strided(x: Tensor) -> Tensor:
        grown = torch.stack([x, x], -1)[..., 0].reshape(2, 3, *x.shape[1:])
        return grown.transpose(0, 1).contiguous().transpose(0, 1)

    raw, rgbs = (strided(x).requires_grad_() for x in (r.raw, r.rgbs))
    out = composite(raw, rgbs, strided(r.ts), settings, deltas=strided(r.deltas), backend="triton")
    assert not raw.is_contiguous()
    torch.testing.assert_close(out.rgb, flat.rgb.reshape(2, 3, 3))
    torch.testing.assert_close(out.depth, flat.depth.reshape(2, 3))
    out.rgb.sum().backward()  # an expanded cotangent
    assert raw.grad is not None
    assert raw.grad.shape == raw.shape
    assert raw.grad.isfinite().all()


def test_no_rays(device: torch.device) -> None:
    got = evaluate(records(0, 8, prior=True).to(device), RenderSettings(), "triton")
    shapes = {k: tuple(v.shape) for k, v in got.items()}
    assert shapes["rgb"] == (0, 3)
    assert shapes["weights"] == shapes["d_raw"] == (0, 8)
    assert shapes["d_rgbs"] == (0, 8, 3)


def test_launchers_take_the_chord_of_the_ray(device: torch.device) -> None:
    """Rendering knows far - near, which the deltas of given samples need not sum up to."""
    r, settings = records(3, 6), RenderSettings.triposr()
    chord, d_rgb = torch.tensor([2.0, 0.0, 0.7]), torch.rand(3, 3)
    raw, rgbs = r.raw.double().requires_grad_(), r.rgbs.double().requires_grad_()
    exact = composite_reference(raw, rgbs, r.ts, r.deltas, settings, chord=chord)
    (exact.rgb * d_rgb).sum().backward()
    raw32, rgbs32, ts, deltas, _ = r.to(device)
    assert deltas is not None
    chord, d_rgb = chord.to(device), d_rgb.to(device)
    out = composite_forward(raw32, rgbs32, ts, deltas, settings, chord=chord)
    torch.testing.assert_close(out.rgb.cpu().double(), exact.rgb.detach(), rtol=1e-5, atol=1e-6)
    d_raw, d_rgbs = composite_backward(
        d_rgb, None, None, None, raw32, rgbs32, ts, deltas, settings, out.opacity, out.depth,
        chord=chord,
    )  # fmt: skip
    torch.testing.assert_close(d_raw.cpu().double(), raw.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(d_rgbs.cpu().double(), rgbs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_samples", [12, 140])
def test_gradients_behind_a_dense_sample_keep_their_digits(
    n_samples: int, device: torch.device
) -> None:
    """T = 1e-6 behind the third sample; there, every gradient is right to 1e-4 of itself."""
    r = records(2, n_samples)
    sigmas = r.raw.abs() + 0.1
    sigmas[:, 2] = 6 * math.log(10)
    deltas = torch.full((2, n_samples), 3 / n_samples)
    deltas[:, 2] = 1
    r = r._replace(raw=sigmas, deltas=deltas)
    exact = evaluate(r.to(torch.float64), PLAIN, "reference", per_sample=False)
    got = evaluate(r.to(device), PLAIN, "triton", per_sample=False)
    for name in ("d_raw", "d_rgbs"):
        behind, expected = got[name][:, 3:].cpu().double(), exact[name][:, 3:]
        assert expected.abs().max() < 1e-5
        scale = expected.abs().amax().item()
        error = ((behind - expected).abs() / (expected.abs() + 1e-2 * scale)).max().item()
        assert error < 1e-4, f"{name}: {error:.1e}"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_samples", [8, 136])
def test_no_nan_from_empty_or_opaque_samples(
    activation: str, backend: str, n_samples: int, device: torch.device
) -> None:
    r = records(8, n_samples)
    assert r.deltas is not None
    r.raw[0] = -math.inf
    r.raw[1, ::2] = -math.inf
    r.raw[2, 3], r.deltas[2, 3] = math.inf, 0.1
    r.raw[3] = 1e30
    r.raw[4] = 85.0
    r.raw[5, -1], r.raw[5, 0] = math.inf, -math.inf
    r.raw[6] = -100.0
    for quadrature in ("bins", "midpoint"):
        settings = RenderSettings(
            density_activation=activation,  # type: ignore[arg-type]
            quadrature=quadrature,  # type: ignore[arg-type]
            depth_eps=0.0,
        )
        case = r if quadrature == "bins" else r._replace(deltas=None)
        if backend == "triton":
            got = check_kernels(case, settings, device)
        else:
            got = evaluate(case, settings, backend)
        for name, x in got.items():
            assert x.isfinite().all(), name
        assert (got["opacity"][0] == 0).all()
        assert (got["d_raw"][0] == 0).all()


def test_kernels_refuse_what_they_cannot_do(device: torch.device) -> None:
    r = records(2, 4).to(device)
    wide = r.to(torch.float64)
    with pytest.raises(ValueError, match=r"cannot serve this call: fp64"):
        composite(wide.raw, wide.rgbs, wide.ts, PLAIN, deltas=wide.deltas, backend="triton")
    out = composite(wide.raw, wide.rgbs, wide.ts, PLAIN, deltas=wide.deltas)
    assert out.rgb.dtype == torch.float64
    raw = r.raw.clone().requires_grad_()
    rgb = composite(raw, r.rgbs, r.ts, PLAIN, deltas=r.deltas, backend="triton").rgb
    (d_raw,) = torch.autograd.grad(rgb.square().sum(), raw, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_raw.sum().backward()


# --- errors -----------------------------------------------------------------------------------


def test_half_way_deltas_of_many_rays() -> None:
    ts = torch.tensor([[0.0, 1.0, 3.0], [1.0, 2.0, 3.0]])
    expected = torch.tensor([[1.0, 1.5, 2.0], [1.0, 1.0, 1.0]])
    torch.testing.assert_close(half_way_deltas(ts), expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"raw_sigmas": [1.0]}, TypeError, "raw_sigmas must be a torch.Tensor, got list"),
        ({"raw_sigmas": torch.ones(2, 4, dtype=torch.int64)}, TypeError, "convert it with"),
        ({"raw_sigmas": torch.tensor(1.0)}, ValueError, r"must be \(\.\.\., S\), got a scalar"),
        ({"rgbs": torch.ones(2, 4)}, ValueError, r"rgbs must be .*\(2, 4, 'K'\), got \(2, 4\)"),
        ({"ts": torch.ones(2, 5)}, ValueError, r"ts must be .*\(2, 4\), got \(2, 5\)"),
        ({"deltas": torch.ones(4)}, ValueError, r"deltas must be .*\(2, 4\), got \(4,\)"),
        ({"depth_prior": torch.ones(3)}, ValueError, r"depth_prior must be .*\(2,\), got \(3,\)"),
        ({"settings": replace(PLAIN, quadrature="midpoint")}, ValueError, "leave deltas=None"),
        ({"settings": replace(PLAIN, background=(1.0,))}, ValueError, "one number per colour"),
        ({"backend": "cuda"}, ValueError, "backend must be one of 'auto'"),
    ],
)
def test_errors_say_what_to_pass(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "raw_sigmas": torch.ones(2, 4),
        "rgbs": torch.ones(2, 4, 3),
        "ts": torch.ones(2, 4),
        "settings": PLAIN,
        "deltas": torch.ones(2, 4),
    }
    with pytest.raises(error, match=message):
        composite(**{**arguments, **change})


def test_one_sample_needs_deltas() -> None:
    one = torch.ones(2, 1)
    with pytest.raises(ValueError, match="pass deltas"):
        composite(one, torch.ones(2, 1, 3), one, PLAIN)
    with pytest.raises(ValueError, match="at least 2 samples per ray, got 1"):
        composite(one, torch.ones(2, 1, 3), one, replace(PLAIN, quadrature="midpoint"))
