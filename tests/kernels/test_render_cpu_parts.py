"""How the CPU path cuts its work up must not show: tight fp64 comparisons with the reference."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from fastrecon_kernels import Decoder, Rendering, RenderSettings, query_points, render_rays
from fastrecon_kernels.render.cpu import call, field, network, rendering
from torch import Tensor

BINS = RenderSettings(n_samples=7, density_shift=1.0)
FINE = RenderSettings.g3dr(n_samples=5, n_importance=4, density_shift=1.0)
EMPTY = RenderSettings.openlrm(n_samples=6, n_importance=4, density_shift=1.0, near_far=(1.0, 4.0))
SETTINGS = {"bins": BINS, "fine": FINE, "empty": EMPTY}


class Scene:
    """Random inputs in fp64, all leaves: planes, decoder and rays, some of which miss the box."""

    def __init__(
        self,
        settings: RenderSettings,
        n_levels: int = 1,
        hidden: tuple[int, ...] = (6, 5),
        activation: str = "silu",
        biases: bool = True,
    ) -> None:
        g = torch.Generator().manual_seed(5)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

        self.settings = settings
        widths = [12 if settings.reduction == "concat" else 4, *hidden, 4]
        self.levels = [random(2, 3, 4, 7 - i, 5 + i) for i in range(n_levels)]
        self.weights = [random(b, a) for a, b in itertools.pairwise(widths)]
        self.biases = [random(w) for w in widths[1:]] if biases else [None] * len(self.weights)
        self.decoder = Decoder(self.weights, self.biases, activation)
        towards = torch.tensor([-1.0, 0, 0]) + 0.2 * random(2, 9, 3).detach()
        origins = torch.tensor([2.0, 0, 0]) + 0.2 * random(2, 9, 3).detach()
        towards[:, ::4] = torch.tensor([0, 1.0, 0], dtype=torch.float64)  # passes beside the box
        self.rays_o, self.rays_d = origins.requires_grad_(), towards.requires_grad_()

    @property
    def leaves(self) -> dict[str, Tensor]:
        named = {f"level {i}": x for i, x in enumerate(self.levels)}
        named |= {f"weight {i}": x for i, x in enumerate(self.weights)}
        named |= {f"bias {i}": x for i, x in enumerate(self.biases) if x is not None}
        return named | {"origins": self.rays_o, "directions": self.rays_d}

    def render(self, backend: str, **options: object) -> Rendering:
        options = {"seed": 3, "per_sample": True, "backend": backend, **options}
        inputs = (self.levels, self.decoder, self.rays_o, self.rays_d, self.settings)
        return render_rays(*inputs, **options)  # type: ignore[arg-type]


def outputs(rendering: Rendering) -> dict[str, Tensor]:
    assert rendering.samples is not None
    named = {"rgb": rendering.rgb, "opacity": rendering.opacity, "depth": rendering.depth}
    return named | rendering.samples._asdict()


def loss(rendering: Rendering) -> Tensor:
    g = torch.Generator().manual_seed(6)
    named = outputs(rendering)
    names = ("rgb", "opacity", "depth", "weights")
    parts = [(named[n] * torch.randn(named[n].shape, generator=g)).sum() for n in names]
    return torch.stack(parts).sum()


def compare(scene: Scene, **options: object) -> None:
    """Every output and every gradient, fast path against the reference."""
    fast, slow = (scene.render(backend, **options) for backend in ("auto", "reference"))
    for name, expected in outputs(slow).items():
        torch.testing.assert_close(
            outputs(fast)[name], expected, atol=1e-11, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )
    leaves = scene.leaves
    pairs = zip(
        leaves,
        torch.autograd.grad(loss(fast), list(leaves.values())),
        torch.autograd.grad(loss(slow), list(leaves.values())),
        strict=True,
    )
    for name, found, expected in pairs:
        torch.testing.assert_close(
            found, expected, atol=1e-9, rtol=1e-8, msg=lambda m, n=name: f"d {n}: {m}"
        )


@pytest.fixture(params=["folded", "apart"])
def folding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer in the texels, or computed per point."""
    monkeypatch.setattr(call, "worth_folding", lambda *_: request.param == "folded")


@pytest.fixture(params=["small", "recomputed", "whole"])
def cutting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups and blocks of a few points, kept, computed again, or everything at once."""
    if request.param == "whole":
        return
    monkeypatch.setattr(call, "GROUP_POINTS", 30)
    monkeypatch.setattr(field, "GROUPED_POINTS", (40, 40))
    monkeypatch.setattr(field, "BLOCK_TAPS", 13 * 12)
    monkeypatch.setattr(network, "LEAST_TILE", 1)
    monkeypatch.setattr(network, "TILE_NUMBERS", 50)
    if request.param == "recomputed":
        monkeypatch.setattr(rendering, "KEPT_BYTES", 0)
        monkeypatch.setattr(rendering, "PLACED_AT_ONCE", 0)


@pytest.mark.parametrize("n_levels", [1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_groups_blocks_and_folding_do_not_show(
    name: str, n_levels: int, folding: None, cutting: None
) -> None:
    compare(Scene(SETTINGS[name], n_levels), depth_prior=torch.full((2, 9), 1.7))


@pytest.mark.parametrize("hidden", [(), (6,), (6, 6, 6)], ids=["no", "one", "three"])
@pytest.mark.parametrize("activation", ["silu", "relu", "softplus"])
@pytest.mark.parametrize("biases", [True, False], ids=["biases", "no biases"])
def test_any_decoder(hidden: tuple[int, ...], activation: str, biases: bool, folding: None) -> None:
    compare(Scene(BINS, 1, hidden, activation, biases))


@pytest.mark.parametrize("activation", ["exp", "trunc_exp", "softplus", "relu", "none"])
@pytest.mark.parametrize("quadrature", ["bins", "midpoint"])
def test_any_density(activation: str, quadrature: str) -> None:
    compare(
        Scene(replace(BINS, density_activation=activation, quadrature=quadrature, density_scale=2))
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"interval": "chord", "near_far": "tsr_box", "background": (0.1, 0.2, 0.3)},
        {"reduction": "mean", "rgb_padding": 0.001, "rgb_range": (-1.0, 1.0)},
        {"reduction": "sum", "axes": ("zy", "xz", "yx"), "depth_eps": 0.0},
        {"early_stop": 0.3, "stratified": True},
        {"outside": "empty", "near_far": (0.5, 4.0)},
    ],
    ids=["chord", "mean", "sum", "early stop", "empty"],
)
def test_any_settings(changes: dict[str, object], folding: None) -> None:
    compare(Scene(replace(BINS, **changes)))  # type: ignore[arg-type]


def test_given_samples_and_occupancy() -> None:
    g = torch.Generator().manual_seed(7)
    ts = torch.rand(2, 9, 8, generator=g, dtype=torch.float64).mul(2).add(1).sort(-1).values
    for settings in (BINS, FINE):
        compare(Scene(settings), ts=ts)
        compare(Scene(settings), occupancy=torch.rand(2, 5, 5, 5, generator=g) < 0.5)


def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of points of every block that is looked up from now on."""
    counts: list[int] = []
    find = field.find_cells
    monkeypatch.setattr(
        field,
        "find_cells",
        lambda unit, layout: (counts.append(unit.shape[1]), find(unit, layout))[1],
    )
    return counts


def test_rays_that_miss_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = looked_up(monkeypatch)
    rendering = Scene(BINS).render("auto")
    assert rendering.samples is not None
    missed = (rendering.samples.deltas == 0).all(-1)
    assert 0 < missed.sum() < missed.numel()
    assert sum(counts) == BINS.n_samples * int((~missed).sum())


@pytest.mark.parametrize("quadrature", ["bins", "midpoint"])
def test_nothing_behind_an_opaque_sample_is_looked_up(
    quadrature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(replace(BINS, n_samples=100, quadrature=quadrature, density_shift=4.0))
    stopping = replace(scene.settings, early_stop=1e-3)
    everything = looked_up(monkeypatch)
    with torch.no_grad():
        scene.render("auto")
        total = sum(everything)
        scene.settings = stopping
        fast, slow = outputs(scene.render("auto")), outputs(scene.render("reference"))
    assert sum(everything) - total < 0.9 * total
    for name, expected in slow.items():
        torch.testing.assert_close(fast[name], expected, atol=1e-12, rtol=1e-9)


def test_a_backward_pass_can_be_repeated() -> None:
    scene = Scene(BINS)
    total = loss(scene.render("auto"))
    first, second = (
        torch.autograd.grad(total, list(scene.leaves.values()), retain_graph=True) for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["level 0", "weight 0", "bias 1", "directions"])
def test_one_gradient_alone(name: str, folding: None) -> None:
    scene = Scene(FINE)
    together = torch.autograd.grad(loss(scene.render("auto")), [scene.leaves[name]])[0]
    for other, leaf in scene.leaves.items():
        leaf.requires_grad_(other == name)
    (alone,) = torch.autograd.grad(loss(scene.render("auto")), [scene.leaves[name]])
    torch.testing.assert_close(alone, together, atol=1e-12, rtol=1e-10)


def test_points_in_groups(folding: None, cutting: None) -> None:
    scene = Scene(EMPTY, 2)
    g = torch.Generator().manual_seed(8)
    points = torch.randn(2, 50, 3, generator=g, dtype=torch.float64).requires_grad_()
    leaves = [*scene.levels, *scene.decoder.parameters, points]
    found = []
    for backend in ("auto", "reference"):
        raw, rgb = query_points(scene.levels, scene.decoder, points, EMPTY, backend=backend)
        found.append([raw, rgb, *torch.autograd.grad(raw.sum() + rgb.square().sum(), leaves)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-8)


def test_a_backward_pass_under_autocast_stays_exact() -> None:
    scene = Scene(BINS)
    total = loss(scene.render("auto"))
    inputs = [scene.levels[0]]
    (expected,) = torch.autograd.grad(total, inputs, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(total, inputs)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
