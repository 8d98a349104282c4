"""`render_rays` and `query_points` in Triton against the reference, every gradient by name."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from fastrecon_kernels import Decoder, Rendering, RenderSettings, query_points, render_rays
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need Triton")

from fastrecon_kernels.render import triton_path, tuning

pytestmark = pytest.mark.usefixtures("poison_empty")


@dataclass
class Scene:
    """Leaves of a call; ``tensors`` names them as failures should."""

    levels: list[Tensor]
    weights: list[Tensor]
    biases: list[Tensor | None]
    rays_o: Tensor
    rays_d: Tensor
    activation: str
    frozen: set[str] = field(default_factory=set)

    def tensors(self) -> dict[str, Tensor]:
        named = {f"planes of level {i}": level for i, level in enumerate(self.levels)}
        named |= {f"weight {i}": weight for i, weight in enumerate(self.weights)}
        named |= {f"bias {i}": bias for i, bias in enumerate(self.biases) if bias is not None}
        named |= {"rays_o": self.rays_o, "rays_d": self.rays_d}
        return {name: t for name, t in named.items() if name not in self.frozen}

    @property
    def decoder(self) -> Decoder:
        return Decoder(self.weights, self.biases, self.activation)


def make_scene(
    device: torch.device,
    hidden: tuple[int, ...] = (24,),
    *,
    activation: str = "silu",
    reduction: str = "concat",
    sizes: tuple[tuple[int, int], ...] = ((6, 7),),
    channels: int = 5,
    n_colours: int = 3,
    n_rays: int = 3,
    bias: bool = True,
    radius: float = 1.0,
) -> Scene:
    """Two objects; the rays pass near the centre but for one that misses."""
    g = torch.Generator().manual_seed(7)
    widths = [3 * channels if reduction == "concat" else channels, *hidden, 1 + n_colours]
    origins = torch.nn.functional.normalize(torch.randn(2, n_rays, 3, generator=g), dim=-1) * 2
    targets = 0.4 * torch.randn(2, n_rays, 3, generator=g)
    directions = 0.7 * (targets - origins)
    if n_rays:
        directions[1, -1] = origins[1, -1]
    levels = [torch.randn(2, 3, channels, h, w, generator=g) for h, w in sizes]
    weights = [torch.randn(b, a, generator=g) / a**0.5 for a, b in itertools.pairwise(widths)]
    biases = [torch.randn(b, generator=g) if bias else None for b in widths[1:]]
    return Scene(
        [level.to(device) for level in levels],
        [weight.to(device) for weight in weights],
        [None if b is None else b.to(device) for b in biases],
        (radius * origins).to(device),
        (radius * directions).to(device),
        activation,
    )


def results(rendering: Rendering) -> dict[str, Tensor]:
    named = {"rgb": rendering.rgb, "opacity": rendering.opacity, "depth": rendering.depth}
    if rendering.samples is not None:
        named |= {"weights": rendering.samples.weights, "ts": rendering.samples.ts}
        named |= {"deltas": rendering.samples.deltas}
    return named


def gradients(scene: Scene, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of all leaves for a random cotangent of every differentiable result."""
    leaves = scene.tensors()
    g = torch.Generator().manual_seed(3)
    pairs = [
        (out, torch.randn(out.shape, generator=g).to(out.device))
        for out in outputs.values()
        if out.requires_grad
    ]
    grads = torch.autograd.grad(
        [out for out, _ in pairs],
        list(leaves.values()),
        [cotangent for _, cotangent in pairs],
        allow_unused=True,
    )
    return {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }


def assert_same(
    got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-4
) -> None:
    """Equal up to ``tolerance`` of each tensor's largest element."""
    assert got.keys() == expected.keys()
    for name, want in expected.items():
        have = got[name]
        assert have.dtype == want.dtype, name
        assert have.shape == want.shape, name
        scale = want.abs().max().item() if want.numel() else 0.0
        error = (have.double() - want.double()).abs().max().item() if want.numel() else 0.0
        assert error <= tolerance * max(scale, 1e-3), f"{name}: off by {error} of {scale}"


def check(
    scene: Scene, settings: RenderSettings, tolerance: float = 1e-4, **options: Any
) -> dict[str, Tensor]:
    """Both backends give the same results and gradients; returns the kernels' gradients."""
    for leaf in scene.tensors().values():
        leaf.requires_grad_()
    planes = scene.levels if len(scene.levels) > 1 else scene.levels[0]
    found = []
    for backend in ("reference", "triton"):
        rendering = render_rays(
            planes,
            scene.decoder,
            scene.rays_o,
            scene.rays_d,
            settings,
            **{"per_sample": True, "seed": 5, "backend": backend, **options},
        )
        outputs = results(rendering)
        found.append((outputs, gradients(scene, outputs)))
    (expected, expected_grads), (got, got_grads) = found
    assert_same(got, expected, tolerance)
    assert_same(got_grads, expected_grads, tolerance)
    return got_grads


# --- presets, decoders, levels ---------------------------------------------------------------

TRIPOSR = RenderSettings.triposr(n_samples=4, density_shift=0.0)
G3DR = RenderSettings.g3dr(n_samples=4, n_importance=3, density_shift=0.0)
OPENLRM = RenderSettings.openlrm(n_samples=4, n_importance=3, density_shift=0.0)
EG3D = RenderSettings.eg3d(n_samples=4, n_importance=2, near_far=(0.5, 1.5), density_shift=0.0)


def test_triposr(device: torch.device) -> None:
    check(make_scene(device, (24, 24, 24), radius=0.87), TRIPOSR)


def test_g3dr(device: torch.device) -> None:
    sizes = ((6, 7), (4, 4), (2, 3))
    scene = make_scene(device, (64,), activation="softplus", reduction="mean", sizes=sizes)
    check(scene, G3DR)


def test_openlrm(device: torch.device) -> None:
    check(make_scene(device, (24, 40), activation="relu"), OPENLRM)


def test_eg3d(device: torch.device) -> None:
    scene = make_scene(
        device, (64,), activation="softplus", reduction="mean", n_colours=5, radius=0.5
    )
    check(scene, EG3D)


@pytest.mark.parametrize(
    ("hidden", "activation", "bias"),
    [
        ((), "silu", True),
        ((), "silu", False),
        ((5,), "relu", False),
        ((24, 5, 16), "softplus", True),
        ((16, 16, 16, 24), "silu", False),
        ((72, 65), "silu", True),
        ((130, 20), "silu", True),
        ((130,), "softplus", False),
    ],
)
def test_decoders(
    device: torch.device, hidden: tuple[int, ...], activation: str, bias: bool
) -> None:
    scene = make_scene(
        device, hidden, activation=activation, bias=bias, reduction="sum", channels=3
    )
    check(scene, replace(TRIPOSR, radius=1.0, reduction="sum"))


def test_weights_that_stay_in_memory(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders too large for shared memory read their weights once per tile."""
    monkeypatch.setattr(tuning, "keeps_weights", lambda *_: False)
    scene = make_scene(device, (16, 16, 16, 16, 16), channels=3)
    check(scene, replace(TRIPOSR, radius=1.0))


# --- options ---------------------------------------------------------------------------------


def test_occupancy_and_padding(device: torch.device) -> None:
    g = torch.Generator().manual_seed(1)
    occupancy = (torch.rand(2, 4, 4, 4, generator=g) > 0.4).to(device)
    settings = replace(TRIPOSR, rgb_padding=0.01, background=(0.1, 0.2, 0.3), early_stop=0.3)
    check(make_scene(device, radius=0.87), settings, occupancy=occupancy)


def test_depth_prior(device: torch.device) -> None:
    scene = make_scene(device)
    prior = torch.tensor([[1.2, float("nan"), 2.0], [1.5, 0.1, 1.0]], device=device)
    check(scene, replace(G3DR, reduction="concat"), depth_prior=prior)


@pytest.mark.parametrize("quadrature", ["bins", "midpoint"])
def test_explicit_samples(device: torch.device, quadrature: str) -> None:
    g = torch.Generator().manual_seed(2)
    ts = (0.5 + 1.5 * torch.rand(2, 3, 5, generator=g).sort(-1).values).to(device)
    settings = replace(
        G3DR,
        reduction="concat",
        n_importance=0,
        quadrature=quadrature,  # type: ignore[arg-type]
        interval="chord" if quadrature == "bins" else "distance",
    )
    check(make_scene(device), settings, ts=ts)


@pytest.mark.parametrize("hidden", [(24,), (130,)])
def test_nothing_to_render(device: torch.device, hidden: tuple[int, ...]) -> None:
    grads = check(make_scene(device, hidden, n_rays=0), replace(TRIPOSR, radius=1.0))
    assert not grads["planes of level 0"].any()


def test_extra_ray_dimensions_and_strides(device: torch.device) -> None:
    scene = make_scene(device, n_rays=4)
    scene.levels = [scene.levels[0].transpose(-1, -2).contiguous().transpose(-1, -2)]
    scene.rays_o = scene.rays_o.view(2, 2, 2, 3).transpose(1, 2)
    scene.rays_d = scene.rays_d.view(2, 2, 2, 3).transpose(1, 2)
    check(scene, replace(TRIPOSR, n_samples=3), per_sample=False)


def test_half_precision_planes(device: torch.device) -> None:
    scene = make_scene(device)
    scene.levels = [level.bfloat16() for level in scene.levels]
    # The kernels' products round to bf16 too, but for the interpreter's.
    check(scene, replace(TRIPOSR, n_samples=3), tolerance=2e-2)


def test_autocast_means_half_precision(device: torch.device) -> None:
    scene = make_scene(device)
    rays = (scene.rays_o, scene.rays_d)
    settings = replace(TRIPOSR, n_samples=3)
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        auto = render_rays(scene.levels, scene.decoder, *rays, settings, backend="triton")
    half = render_rays(
        scene.levels, scene.decoder, *rays, settings, precision="bf16", backend="triton"
    )
    assert_same(results(auto), results(half), 0.0)
    exact = render_rays(scene.levels, scene.decoder, *rays, settings, backend="reference")
    assert not torch.equal(half.rgb, exact.rgb)
    assert_same(results(half), results(exact), 2e-2)


# --- gradients that are not asked for, chunks, determinism --------------------------------------


@pytest.mark.parametrize("hidden", [(24, 24), (130,)])
@pytest.mark.parametrize("wanted", ["planes", "weight", "rays_d"])
def test_only_what_is_asked_for(device: torch.device, wanted: str, hidden: tuple[int, ...]) -> None:
    scene = make_scene(device, hidden, reduction="sum", n_rays=2)
    scene.frozen = {name for name in scene.tensors() if not name.startswith(wanted)}
    check(scene, replace(TRIPOSR, n_samples=3, reduction="sum"))


@pytest.mark.parametrize("hidden", [(24,), (130,)])
def test_chunks(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, hidden: tuple[int, ...]
) -> None:
    """Chunks of one ray, across objects or within, change no sample and no gradient."""
    monkeypatch.setattr(triton_path, "CHUNK_BYTES", 1)
    scene = make_scene(device, hidden, reduction="mean", n_rays=1)
    check(scene, replace(G3DR, n_importance=2))


def test_many_tiles_per_program(device: torch.device) -> None:
    scene = make_scene(device, reduction="sum", channels=3, n_rays=9)
    tile, _ = tuning.tuning_of(device, "tf32").field
    assert device.type == "cuda" or 2 * tile * tuning.INTERPRETED_PROGRAMS < 2 * 9 * 8
    check(scene, replace(TRIPOSR, n_samples=8, reduction="sum"))


@pytest.mark.parametrize(
    ("hidden", "reduction"), [((24,), "concat"), ((24,), "mean"), ((130,), "concat")]
)
def test_deterministic(device: torch.device, hidden: tuple[int, ...], reduction: str) -> None:
    scene = make_scene(device, hidden, reduction=reduction, sizes=((6, 7), (3, 2)), n_rays=2)
    settings = replace(TRIPOSR, n_samples=3, reduction=reduction)  # type: ignore[arg-type]
    first = check(scene, settings, deterministic=True)
    second = check(scene, settings, deterministic=True)
    assert_same(second, first, 0.0)


# --- points ----------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("hidden", [(24,), (130,)])
def test_query_points(device: torch.device, hidden: tuple[int, ...], raw: bool) -> None:
    scene = make_scene(device, hidden, n_colours=5, n_rays=4)
    settings = replace(OPENLRM, radius=1.5)
    points = (scene.rays_o * 0.8).view(2, 2, 2, 3)
    leaves = {"points": points, **scene.tensors()}
    del leaves["rays_o"], leaves["rays_d"]
    found = []
    for backend in ("reference", "triton"):
        for leaf in leaves.values():
            leaf.requires_grad_()
        sigmas, rgbs = query_points(
            scene.levels[0], scene.decoder, points, settings, raw=raw, backend=backend
        )
        g = torch.Generator().manual_seed(4)
        inside = (points.abs() <= settings.radius).all(-1)
        assert inside.any()
        assert not inside.all()
        d_sigmas = torch.where(inside, torch.randn(sigmas.shape, generator=g).to(device), 0)
        d_rgbs = torch.randn(rgbs.shape, generator=g).to(device)
        grads = torch.autograd.grad([sigmas, rgbs], list(leaves.values()), [d_sigmas, d_rgbs])
        empty = -torch.inf if raw else 0.0
        assert (sigmas[~inside] == empty).all()
        found.append(
            (
                {"sigmas": sigmas.masked_fill(~inside, 0), "rgbs": rgbs},
                dict(zip(leaves, grads, strict=True)),
            )
        )
    assert_same(found[1][0], found[0][0])
    assert_same(found[1][1], found[0][1])


def test_no_points(device: torch.device) -> None:
    scene = make_scene(device)
    points = torch.zeros(2, 0, 3, device=device, requires_grad=True)
    sigmas, rgbs = query_points(
        scene.levels[0], scene.decoder, points, RenderSettings(), backend="triton"
    )
    assert (sigmas.shape, rgbs.shape) == ((2, 0), (2, 0, 3))
    (grad,) = torch.autograd.grad(rgbs.sum(), points)
    assert grad.shape == points.shape


def test_double_precision_is_refused(device: torch.device) -> None:
    scene = make_scene(device)
    rays = (scene.rays_o.double(), scene.rays_d.double())
    with pytest.raises(ValueError, match="float64"):
        render_rays(scene.levels, scene.decoder, *rays, TRIPOSR, backend="triton")
