"""The peer Lightplane: its formula, workload L, the adapter, and what a table says without it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastrecon_kernels import RenderSettings, render_rays
from torch import Tensor, nn

from bench import report
from bench.baselines import lightplane as peer
from bench.case import PASSES, Case, Size
from bench.harness import Options, measure_pass
from bench.operators import CASES
from bench.operators import render_rays as rendering
from bench.workloads import Inputs, L
from tests.bench.small_cases import CPU, row

SMALL_L = replace(
    L,
    plane_side=8,
    channels=16,
    hidden=(16, 16),
    settings=replace(L.settings, n_samples=6, near_far=(1.2, 4.2), density_scale=1.3),
)


def small() -> Inputs:
    """Workload L with less of everything, in fp64, and samples out of the box."""
    x = SMALL_L.inputs(views=2, image_side=3, requires_grad=True)
    x.mlp.double()
    planes = x.planes.detach().double().requires_grad_()
    return Inputs(planes, (planes,), x.mlp, x.rays_o.double(), x.rays_d.double(), x.settings)


def documented(x: Inputs) -> tuple[Tensor, Tensor]:
    """Lightplane's documentation, ray by ray: samples from near to far, T_i = exp(-sum)."""
    assert not isinstance(x.settings.near_far, str)
    n, (near, far) = x.settings.n_samples, x.settings.near_far
    step = (far - near) / n
    rgbs, opacities = [], []
    for b in range(x.rays_o.shape[0]):
        for o, d in zip(x.rays_o[b], x.rays_d[b], strict=True):
            passed, rgb = torch.ones((), dtype=o.dtype), torch.zeros(3, dtype=o.dtype)
            for i in range(n):
                p = o + (near + step / 2 + i * step) * d
                read = torch.zeros(x.planes.shape[2], dtype=o.dtype)
                for plane, (u, v) in zip(x.planes[b], ((0, 1), (0, 2), (1, 2)), strict=True):
                    at = torch.stack([p[u], p[v]])[None, None, None]
                    read = read + F.grid_sample(plane[None], at, align_corners=False)[0, :, 0, 0]
                out = x.mlp(read[None])[0]
                opacity = x.settings.density_scale * torch.log1p(out[0].exp())
                left = passed * torch.exp(-opacity * step)
                rgb = rgb + (passed - left) * out[1:].sigmoid()
                passed = left
            rgbs.append(rgb)
            opacities.append(1 - passed)
    shape = x.rays_o.shape[:2]
    return torch.stack(rgbs).view(*shape, 3), torch.stack(opacities).view(shape)


def gradients(results: tuple[Tensor, Tensor], x: Inputs) -> tuple[Tensor, ...]:
    cotangents = [torch.linspace(-1, 1, r.numel(), dtype=r.dtype).view(r.shape) for r in results]
    return torch.autograd.grad(results, x.leaves, cotangents, retain_graph=True)


def assert_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], x: Inputs) -> None:
    """Results and gradients to fp64's round-off."""
    torch.testing.assert_close(one, other, rtol=0, atol=1e-8)
    for g, h in zip(gradients(one, x), gradients(other, x), strict=True):
        torch.testing.assert_close(g, h, rtol=1e-6, atol=1e-7)


def test_our_renderer_computes_the_documented_formula() -> None:
    x = small()
    r = render_rays(x.levels, x.decoder, x.rays_o, x.rays_d, x.settings, backend="reference")
    expected = documented(x)
    assert float(expected[0].detach().std()) > 0.02
    assert_same((r.rgb, r.opacity), expected, x)
    plain = peer.render_plain(x.planes, x.mlp, x.rays_o, x.rays_d, x.settings)
    assert_same(plain, expected, x)


def test_workload_l_is_what_lightplane_can_express() -> None:
    x = L.inputs(views=8)
    peer.check_expressible(x.settings, x.mlp, x.planes.shape[2])
    assert x.planes.shape == (8, 3, 32, 32, 32)
    assert x.n_samples == 16_777_216
    assert [tuple(w.shape) for w in x.decoder.weights] == [(32, 32)] * 3 + [(4, 32)]
    assert x.decoder.activation == "relu"
    across = torch.linalg.cross(x.rays_o, x.rays_d).norm(dim=-1)
    assert float(across.max()) < 1  # all rays meet the unit sphere
    assert x.settings.near_far == pytest.approx((L.distance - 1, L.distance + 1))


def test_fields_of_l_vary() -> None:
    x = L.inputs(views=1, image_side=6)
    with torch.no_grad():
        rgb, opacity = rendering.ours()(x)
    assert float(rgb.std()) > 0.02
    assert float(opacity.mean()) > 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reduction": "concat"}, "reduction='sum' only, got 'concat'"),
        ({"density_activation": "exp"}, "density_activation='softplus'"),
        ({"rgb_padding": 0.001}, "rgb_padding=0.0 only"),
        ({"near_far": "box"}, "pass near_far as a pair"),
        ({"n_samples": 1}, "take 2 or more"),
        ({"background": "white"}, "background='black'"),
    ],
)
def test_what_it_cannot_express_is_named(changes: dict[str, Any], message: str) -> None:
    x = small()
    settings: RenderSettings = replace(x.settings, **changes)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        peer.check_expressible(settings, x.mlp, 16)


@pytest.mark.parametrize(
    ("channels", "hidden", "act", "message"),
    [
        (40, (32, 32), nn.ReLU, "planes of 40 channels"),
        (32, (24, 24), nn.ReLU, "layers of 24"),
        (8, (16,), nn.ReLU, "at least 16"),
        (32, (32, 64), nn.ReLU, r"one width, got \[32, 64\]"),
        (32, (32,), nn.SiLU, "no other activation"),
    ],
)
def test_decoders_it_cannot_express_are_named(
    channels: int, hidden: tuple[int, ...], act: type[nn.Module], message: str
) -> None:
    workload = replace(L, channels=channels, hidden=hidden, activation=act)
    with pytest.raises(ValueError, match=message):
        peer.check_expressible(L.settings, workload.make_mlp(), channels)


@dataclass
class FakeRays:
    directions: Tensor
    origins: Tensor
    grid_idx: Tensor
    near: Tensor
    far: Tensor
    encoding: Tensor


@dataclass
class FakeDecoder:
    trunk: list[tuple[Tensor, Tensor]]
    opacity: tuple[Tensor, Tensor]
    colour: tuple[Tensor, Tensor]
    sizes: None
    color_chn: int


def fake_flatten(*lists: list[Tensor]) -> tuple[Any, ...]:
    """Weights and biases of trunk, opacity head and colour head; (in, out), one-layer heads."""
    weights, biases, opacity_w, opacity_b, colour_w, colour_b = lists
    trunk = list(zip(weights, biases, strict=True))
    return trunk, (opacity_w[0], opacity_b[0]), (colour_w[0], colour_b[0]), None


def fake_renderer(
    rays: FakeRays,
    grid: list[Tensor],
    decoder: FakeDecoder,
    num_samples: int,
    gain: float,
    **program: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """What Lightplane documents of its call: flat rays, (B, D, H, W, C) grids, x along W."""
    assert set(program) == {"triton_block_size", "triton_num_warps"}
    steps = torch.linspace(0, 1, num_samples, dtype=rays.near.dtype)
    ts = rays.near[:, None] + steps * (rays.far - rays.near)[:, None]
    points = rays.origins[:, None] + ts[..., None] * rays.directions[:, None]
    read = torch.zeros(*points.shape[:2], grid[0].shape[-1], dtype=points.dtype)
    for g in grid:
        sides = torch.tensor(g.shape[1:4][::-1])
        at = points * (sides > 1)  # a side of one texel is read at its middle
        volume = g.permute(0, 4, 1, 2, 3)[rays.grid_idx.long()]
        found = F.grid_sample(volume, at[:, :, None, None], align_corners=False)
        read = read + found[..., 0, 0].transpose(1, 2)
    for weight, bias in decoder.trunk:
        read = torch.relu(read @ weight + bias)
    raw = (read @ decoder.opacity[0] + decoder.opacity[1])[..., 0]
    features = read + rays.encoding[:, None]
    colours = torch.sigmoid(features @ decoder.colour[0] + decoder.colour[1])
    assert colours.shape[-1] == decoder.color_chn
    step = ((rays.far - rays.near) / (num_samples - 1))[:, None]
    absorbed = (gain * F.softplus(raw) * step).cumsum(-1)
    passed = torch.exp(-F.pad(absorbed, (1, 0)))
    weights = passed[:, :-1] - passed[:, 1:]
    return (weights * ts).sum(-1), absorbed[:, -1], (weights[..., None] * colours).sum(1)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A `lightplane` that follows the documentation of the real one."""
    fake: Any = ModuleType("lightplane")
    fake.Rays, fake.DecoderParams = FakeRays, FakeDecoder
    fake.flatten_decoder_params, fake.lightplane_renderer = fake_flatten, fake_renderer
    monkeypatch.setitem(sys.modules, "lightplane", fake)
    peer.absence.cache_clear()
    yield fake
    peer.absence.cache_clear()


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No `lightplane`, whatever is installed."""
    monkeypatch.setitem(sys.modules, "lightplane", None)
    peer.absence.cache_clear()
    yield
    peer.absence.cache_clear()


def test_the_adapter_hands_over_what_our_renderer_reads(installed: ModuleType) -> None:
    x = small()
    assert peer.absence() == ""
    theirs = peer.render_lightplane(x.planes, x.mlp, x.rays_o, x.rays_d, x.settings)
    r = render_rays(x.levels, x.decoder, x.rays_o, x.rays_d, x.settings, backend="reference")
    assert_same(theirs, (r.rgb, r.opacity), x)
    settings = replace(x.settings, reduction="mean")
    with pytest.raises(ValueError, match="reduction='sum' only"):
        peer.render_lightplane(x.planes, x.mlp, x.rays_o, x.rays_d, settings)


def test_the_real_one_agrees_on_a_gpu() -> None:
    if peer.absence() or not torch.cuda.is_available():
        pytest.skip(f"compares with Lightplane on CUDA: {peer.absence() or 'no CUDA'}")
    case = rendering.CASES[2]
    rows = measure_pass(case, "forward", Options(torch.device("cuda"), quick=True, budget=0.0))
    assert peer.NAME in {row["renderer"] for row in rows}
    assert [row["status"] for row in rows] == ["ok"] * len(rows), rows


def shrunk(case: Case) -> Case:
    return replace(case, make=SMALL_L.problem, cpu=dict.fromkeys(PASSES, Size(2, 5)))


def test_everybody_agrees_on_l() -> None:
    case = shrunk(CASES["render_rays L"])
    for which in case.passes:
        rows = measure_pass(case, which, Options(CPU, memory=False, budget=0.0, most=1))
        assert [row["status"] for row in rows] == ["ok"] * len(rows), rows
        assert {"published", "reference", "ours"} <= {row["renderer"] for row in rows}


def test_without_it_the_table_says_why_and_nothing_fails(missing: None) -> None:
    assert peer.absence().startswith("not installed: ")
    rows = [row(case="render_rays L"), row(case="render_rays L", renderer="published")]
    last = report.format_group(rows).splitlines()[-1]
    assert last.split() == ["Lightplane", *peer.absence().split()]
    assert report.failed(rows) == []
    assert "Lightplane" not in report.format_group([row()])
    x = small()
    with pytest.raises(RuntimeError, match="Lightplane: not installed"):
        peer.render_lightplane(x.planes, x.mlp, x.rays_o, x.rays_d, x.settings)


def test_a_broken_installation_is_no_error_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise AttributeError("no such thing in this Triton")

    monkeypatch.setattr(peer.importlib, "import_module", broken)
    peer.absence.cache_clear()
    assert peer.absence() == (
        "not installed: importing it fails with AttributeError: no such thing in this Triton"
    )
    peer.absence.cache_clear()


def test_ratios_are_against_its_fastest_row(installed: ModuleType) -> None:
    rows = [
        row(case="programs L", renderer="Lightplane, 16 rays, 4 warps", p50_ms=60.0),
        row(case="programs L", renderer="Lightplane, 32 rays, 4 warps", p50_ms=50.0),
        row(case="programs L", renderer="ours", p50_ms=10.0),
        row(case="programs L", renderer="ours bf16", p50_ms=4.0),
        row(case="programs L", renderer="published", p50_ms=80.0),
    ]
    assert report.against_lightplane(rows) == {"ours": 5.0, "ours bf16": 12.5}
    assert "against Lightplane: ours 5.00x, ours bf16 12.50x" in report.format_group(rows)
    assert report.against_lightplane(rows[2:]) == {}
    assert "need CUDA" in report.format_group(rows[2:])
    broken = row(case="render_rays L", renderer="Lightplane", status="error", error="out of order")
    del broken["p50_ms"]
    assert "against Lightplane: not timed" in report.format_group([broken, *rows[2:]])
