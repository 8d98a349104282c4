"""EG3D's drop-in renderer against a plain evaluation of EG3D's formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastrecon_kernels import Decoder, build_pyramid
from torch import Tensor, nn

from fastrecon.interop.eg3d import Renderer, decoder_view

CHANNELS, COLOURS = 5, 4
OPTIONS: dict[str, Any] = {
    "depth_resolution": 12,
    "depth_resolution_importance": 8,
    "ray_start": 2.25,
    "ray_end": 3.3,
    "box_warp": 1,
    "disparity_space_sampling": False,
    "clamp_mode": "softplus",
    "decoder_lr_mul": 0.5,  # belongs to another part of EG3D
    "superresolution_noise_mode": "none",
}


class Equalised(nn.Module):
    """A layer whose stored numbers are multiplied by constant gains."""

    def __init__(self, n_in: int, n_out: int, rate: float, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(2 * torch.randn(n_out, n_in, dtype=torch.float64) / rate)
        self.bias = nn.Parameter(torch.randn(n_out, dtype=torch.float64)) if bias else None
        self.activation = "linear"
        self.weight_gain = rate / n_in**0.5
        self.bias_gain = rate

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T * self.weight_gain
        return y if self.bias is None else y + self.bias * self.bias_gain


class OSGDecoder(nn.Module):
    """What a program built on EG3D hands to its renderer."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.net = nn.Sequential(
            Equalised(CHANNELS, 8, 0.5, bias), nn.Softplus(), Equalised(8, 1 + COLOURS, 0.5, bias)
        )


@pytest.fixture
def decoder() -> OSGDecoder:
    torch.manual_seed(0)
    return OSGDecoder()


@pytest.fixture
def planes() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(2, 3, CHANNELS, 6, 7, generator=generator, dtype=torch.float64)


def rays(n: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    origins = torch.tensor([0.3, 0.4, 2.7], dtype=torch.float64).expand(2, n, 3)
    aim = torch.rand(2, n, 3, generator=generator, dtype=torch.float64) - 0.5
    return origins, F.normalize(aim - origins, dim=-1)


def plain_field(
    planes: Tensor,
    decoder: OSGDecoder,
    points: Tensor,
    box_warp: float,
    *more: Tensor,
    last: str = "zx",
) -> tuple[Tensor, Tensor]:
    """One object: planes (3, C, H, W), points (M, 3) -> raw density (M,), colours (M, K)."""
    unit = points * 2 / box_warp
    columns = [["xyz".index(axis) for axis in pair] for pair in ("xy", "xz", last)]
    grid = torch.stack([unit[:, pair] for pair in columns])[:, None]
    levels = [F.grid_sample(p, grid, align_corners=False)[:, :, 0] for p in (planes, *more)]
    out = decoder.net(torch.stack(levels).sum(0).mean(0).T)
    return out[:, 0], torch.sigmoid(out[:, 1:]) * 1.002 - 0.001


def march(
    raw: Tensor, colours: Tensor, t: Tensor, white: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One ray, interval by interval."""
    rgb, light = torch.zeros(colours.shape[1], dtype=t.dtype), torch.ones((), dtype=t.dtype)
    mean_t, weights = torch.zeros((), dtype=t.dtype), []
    for i in range(len(t) - 1):
        sigma = F.softplus((raw[i] + raw[i + 1]) / 2 - 1)
        alpha = 1 - torch.exp(-sigma * (t[i + 1] - t[i]))
        weights.append(alpha * light)
        rgb = rgb + weights[-1] * (colours[i] + colours[i + 1]) / 2
        mean_t = mean_t + weights[-1] * (t[i] + t[i + 1]) / 2
        light = light * (1 - alpha + 1e-10)
    total = torch.stack(weights).sum()
    rgb = rgb + 1 - total if white else rgb
    return 2 * rgb - 1, mean_t / total, total, torch.stack(weights)


def fine_samples(t: Tensor, weights: Tensor, n: int) -> Tensor:
    """Inverse transform of n even numbers through the smoothed weights of one ray."""
    low = float("-inf")
    padded = [low, *weights.tolist(), low]
    peaks = [max(padded[i], padded[i + 1]) for i in range(len(padded) - 1)]
    smooth = [(peaks[i] + peaks[i + 1]) / 2 + 0.01 for i in range(len(peaks) - 1)]
    bins = torch.tensor(smooth[1:-1], dtype=t.dtype) + 1e-5
    heights = torch.cat([torch.zeros(1), (bins / bins.sum()).cumsum(0)])
    mids = (t[1:] + t[:-1]) / 2
    samples = []
    for u in torch.linspace(0, 1, n, dtype=t.dtype):
        k = min(int((heights <= u).sum()) - 1, len(bins) - 1)
        share = (u - heights[k]) / (heights[k + 1] - heights[k])
        samples.append(mids[k] + share * (mids[k + 1] - mids[k]))
    return torch.stack(samples)


def plain_render(
    planes: Tensor, decoder: OSGDecoder, o: Tensor, d: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """One ray of one object, without jitter."""
    box, white = options["box_warp"], options.get("white_back", False)
    start, end = options["ray_start"], options["ray_end"]
    if start == end == "auto":
        sides = torch.stack([(-box / 2 - o) / d, (box / 2 - o) / d])
        start, end = sides.amin(0).max().item(), sides.amax(0).min().item()
    t = torch.linspace(start, end, options["depth_resolution"], dtype=o.dtype)
    raw, colours = plain_field(planes, decoder, o + t[:, None] * d, box)
    if options["depth_resolution_importance"]:
        weights = march(raw, colours, t, white)[3].detach()
        more = fine_samples(t, weights, options["depth_resolution_importance"])
        t = torch.cat([t, more]).sort().values
        raw, colours = plain_field(planes, decoder, o + t[:, None] * d, box)
    return march(raw, colours, t, white)[:3]


def plain_batch(
    planes: Tensor, decoder: OSGDecoder, o: Tensor, d: Tensor, options: dict[str, Any]
) -> list[Tensor]:
    """(B, N, K), (B, N, 1), (B, N, 1)."""
    found = [
        [plain_render(planes[b], decoder, o[b, i], d[b, i], options) for i in range(o.shape[1])]
        for b in range(o.shape[0])
    ]
    rgb = torch.stack([torch.stack([ray[0] for ray in row]) for row in found])
    rest = [torch.stack([torch.stack([ray[i] for ray in row]) for row in found]) for i in (1, 2)]
    return [rgb, *(x[..., None] for x in rest)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"depth_resolution_importance": 0},
        {"white_back": True},
        {"box_warp": 1.6, "ray_start": 2.0, "ray_end": 3.5},
        {"ray_start": "auto", "ray_end": "auto"},
    ],
    ids=["fine", "coarse", "white", "larger_box", "auto"],
)
def test_pictures_are_those_of_the_formulas(
    changes: dict[str, Any], planes: Tensor, decoder: OSGDecoder
) -> None:
    options, (o, d) = OPTIONS | changes, rays()
    found = Renderer(stratified=False)(planes, decoder, o, d, options)
    expected = plain_batch(planes, decoder, o, d, options)
    assert [x.shape for x in found] == [(2, 9, COLOURS), (2, 9, 1), (2, 9, 1)]
    for name, x, y in zip(("rgb", "depth", "weights"), found, expected, strict=True):
        # EG3D adds 1e-5 to each bin of the density of fine samples, which moves them a little.
        torch.testing.assert_close(x, y, rtol=0, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert found[2].min() < 0.9, "opaque rays alone prove little"
    assert found[2].max() > 0.1, "empty rays alone prove little"


def test_two_intervals_by_hand() -> None:
    """Raw density 1 is sigma = ln 2: half the light in a unit of length; colours 1/2."""
    decoder = Decoder([torch.zeros(1 + COLOURS, CHANNELS)], [torch.tensor([1.0, 0, 0, 0, 0])])
    o, d = torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0.0, 1.0]]])
    options = OPTIONS | {
        "depth_resolution": 3,
        "depth_resolution_importance": 0,
        "ray_start": 2,
        "ray_end": 4,
    }
    planes = torch.zeros(1, 3, CHANNELS, 4, 4)
    rgb, depth, weights = Renderer(stratified=False)(planes, decoder, o, d, options)
    torch.testing.assert_close(weights, torch.full((1, 1, 1), 0.75))
    torch.testing.assert_close(depth, torch.full((1, 1, 1), (0.5 * 2.5 + 0.25 * 3.5) / 0.75))
    torch.testing.assert_close(rgb, torch.full((1, 1, COLOURS), 2 * 0.375 - 1))
    rgb, _, _ = Renderer(stratified=False)(planes, decoder, o, d, options | {"white_back": True})
    torch.testing.assert_close(rgb, torch.full((1, 1, COLOURS), 2 * (0.375 + 0.25) - 1))


@pytest.mark.parametrize("start_end", [(2.25, 3.3), ("auto", "auto")], ids=["numbers", "auto"])
def test_gradients_reach_planes_decoder_and_rays(
    start_end: tuple[Any, Any], planes: Tensor, decoder: OSGDecoder
) -> None:
    options = OPTIONS | {"ray_start": start_end[0], "ray_end": start_end[1]}
    options["depth_resolution_importance"] = 0
    o, d = rays(4)
    leaves = {"planes": planes, "rays_o": o.clone(), "rays_d": d.clone()}
    for leaf in leaves.values():
        leaf.requires_grad_()
    leaves |= dict(decoder.named_parameters())
    inputs = (leaves["planes"], decoder, leaves["rays_o"], leaves["rays_d"], options)
    outputs = Renderer(stratified=False)(*inputs)
    cotangents = [torch.randn_like(x) for x in outputs]
    found = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
    expected = torch.autograd.grad(plain_batch(*inputs), list(leaves.values()), cotangents)
    for name, x, y in zip(leaves, found, expected, strict=True):
        assert y.abs().max() > 0, name
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_run_model(planes: Tensor, decoder: OSGDecoder) -> None:
    points = torch.rand(2, 11, 3, dtype=torch.float64) * 1.2 - 0.6  # some out of the box
    out = Renderer().run_model(planes, decoder, points, torch.zeros_like(points), {"box_warp": 1})
    assert sorted(out) == ["rgb", "sigma"]
    for b in (0, 1):
        raw, rgb = plain_field(planes[b], decoder, points[b], 1)
        torch.testing.assert_close(out["sigma"][b], raw[:, None])
        torch.testing.assert_close(out["rgb"][b], rgb)


def test_jitter_follows_the_generator(planes: Tensor, decoder: OSGDecoder) -> None:
    renderer, (o, d) = Renderer(), rays()

    def render(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return renderer(planes, decoder, o, d, OPTIONS)[0]

    torch.testing.assert_close(render(3), render(3), rtol=0, atol=0)
    assert (render(3) - render(4)).abs().max() > 1e-4


@pytest.mark.parametrize("stratified", [False, True])
def test_a_ray_of_no_opacity_is_as_far_as_the_farthest_sample(stratified: bool) -> None:
    decoder = Decoder([torch.zeros(2, CHANNELS)], [torch.tensor([-1e4, 0.0])])
    planes, (o, d) = torch.zeros(2, 3, CHANNELS, 4, 4), rays()
    _, depth, weights = Renderer(stratified=stratified)(planes, decoder, o, d, OPTIONS)
    assert weights.max() == 0
    assert depth.min() == depth.max()
    if stratified:  # the last sample is jittered past the end, by up to one step
        assert 3.3 < depth.max() < 3.3 + 1.05 / 11
    else:
        assert depth.max().item() == pytest.approx(3.3)


def test_a_ray_past_the_box_shows_the_background(planes: Tensor, decoder: OSGDecoder) -> None:
    o, d = (x.clone() for x in rays())
    d[:, 0] = -d[:, 0]
    options = OPTIONS | {"ray_start": "auto", "ray_end": "auto"}
    rgb, depth, weights = Renderer(stratified=False)(planes, decoder, o, d, options)
    assert weights[:, 0].abs().max() == 0
    torch.testing.assert_close(rgb[:, 0], torch.full_like(rgb[:, 0], -1))
    assert (depth[:, 0] >= depth[:, 1:].amax(1)).all()
    assert weights[:, 1:].min() > 0


def test_no_rays(planes: Tensor, decoder: OSGDecoder) -> None:
    o = torch.zeros(2, 0, 3, dtype=torch.float64)
    shapes = [x.shape for x in Renderer()(planes, decoder, o, o, OPTIONS)]
    assert shapes == [(2, 0, COLOURS), (2, 0, 1), (2, 0, 1)]


def test_levels_and_axes_of_g3dr(planes: Tensor, decoder: OSGDecoder) -> None:
    levels = build_pyramid(planes[..., :6], 2)
    points = 2 * torch.rand(2, 6, 3, dtype=torch.float64) - 1
    renderer = Renderer(axes=("xy", "xz", "zy"))
    out = renderer.run_model(levels, decoder, points, None, {"box_warp": 2})
    for b in (0, 1):
        fine, coarse = (level[b] for level in levels)
        raw, rgb = plain_field(fine, decoder, points[b], 2, coarse, last="zy")
        torch.testing.assert_close(out["sigma"][b], raw[:, None])
        torch.testing.assert_close(out["rgb"][b], rgb)


@pytest.mark.parametrize("bias", [True, False])
def test_the_decoder_view_is_the_module(bias: bool) -> None:
    decoder = OSGDecoder(bias)
    view, x = decoder_view(decoder), torch.randn(3, CHANNELS, dtype=torch.float64)
    hidden = F.softplus(F.linear(x, view.weights[0], view.biases[0]))
    torch.testing.assert_close(F.linear(hidden, view.weights[1], view.biases[1]), decoder.net(x))
    assert view.activation == "softplus"


def test_other_decoders() -> None:
    mlp = nn.Sequential(nn.Linear(CHANNELS, 8), nn.ReLU(), nn.Linear(8, 4))
    view = decoder_view(mlp)
    assert view.activation == "relu"
    assert view.weights[0] is mlp[0].weight
    assert decoder_view(view) is view


def test_decoders_that_cannot_be_read(decoder: OSGDecoder) -> None:
    with pytest.raises(TypeError, match=r"named `net`.*got Linear"):
        decoder_view(nn.Linear(5, 4))
    with pytest.raises(ValueError, match="SiLU, ReLU or Softplus, got Tanh"):
        decoder_view(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)))
    first = decoder.net[0]
    assert isinstance(first, Equalised)
    first.activation = "lrelu"
    with pytest.raises(ValueError, match="got one with activation='lrelu'"):
        decoder_view(decoder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"disparity_space_sampling": True}, "disparity_space_sampling=True is not supported"),
        ({"density_noise": 0.5}, "density_noise must be 0, got 0.5"),
        ({"clamp_mode": "relu"}, "clamp_mode must be 'softplus', got 'relu'"),
        ({"ray_end": "auto"}, "both be 'auto' or both numbers, got 2.25 and 'auto'"),
        ({"ray_end": 1.0}, "near < far"),
        ({"box_warp": 0}, "box_warp must be a positive number, got 0"),
        ({"depth_resolution": 1}, "unusable settings: n_samples must be at least 2"),
        ({"depth_resolution": 12.5}, "unusable settings: n_samples must be an int"),
    ],
)
def test_options_that_cannot_be_served(
    changes: dict[str, Any], message: str, planes: Tensor, decoder: OSGDecoder
) -> None:
    with pytest.raises(ValueError, match=message):
        Renderer()(planes, decoder, *rays(), OPTIONS | changes)


@pytest.mark.parametrize("key", ["depth_resolution", "ray_start", "box_warp"])
def test_options_that_are_missing(key: str, planes: Tensor, decoder: OSGDecoder) -> None:
    options = {k: v for k, v in OPTIONS.items() if k != key}
    with pytest.raises(ValueError, match=f"rendering_options lack '{key}'"):
        Renderer()(planes, decoder, *rays(), options)


def test_run_model_refuses_noise_too(planes: Tensor, decoder: OSGDecoder) -> None:
    with pytest.raises(ValueError, match="density_noise must be 0"):
        Renderer().run_model(planes, decoder, planes[..., :3], None, OPTIONS | {"density_noise": 1})


def test_overrides_are_checked() -> None:
    with pytest.raises(ValueError, match="near_far cannot be fixed here"):
        Renderer(near_far=(1.0, 2.0))
    with pytest.raises(TypeError, match="no_such_field"):
        Renderer(no_such_field=1)
