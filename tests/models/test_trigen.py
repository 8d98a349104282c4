"""f_trigen: the published formulas, its inputs, its renderings, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastrecon_kernels import RenderSettings
from torch import Tensor
from torch.testing import assert_close

from fastrecon.config.g3dr import PLANE_AXES, SceneCameraConfig, TriGenConfig
from fastrecon.export.mesh import density_grid, extract_mesh
from fastrecon.interop.g3dr import published_name
from fastrecon.models.trigen import TriGen
from fastrecon.scene_cameras import depth_to_distance, scene_c2w, scene_rays

TINY = replace(
    TriGenConfig.tiny(), size=16, render=RenderSettings.g3dr(n_samples=8, n_importance=8)
)


@pytest.fixture
def model() -> TriGen:
    torch.manual_seed(0)
    model = TriGen(TINY)
    for parameter in model.parameters():  # so that every parameter shows in the planes
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def pairs(batch: int = 2, size: int = 16, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch, 3, size, size, generator=generator),
        torch.rand(batch, 1, size, size, generator=generator),
    )


def rays(size: int = 6, yaws: tuple[float, ...] = (0.0, 0.3)) -> tuple[Tensor, Tensor]:
    return scene_rays(scene_c2w(torch.tensor(yaws), 0.1, 5.0), size, 18.0)


# --- the published network -----------------------------------------------------------------------


def test_the_released_size() -> None:
    with torch.device("meta"):
        model = TriGen(TriGenConfig())
    assert sum(p.numel() for p in model.parameters()) == 147_406_212
    assert TriGenConfig.released().render.axes == PLANE_AXES["eg3d"]
    assert TriGenConfig().render.axes == PLANE_AXES["orthogonal"]
    assert not list(model.buffers())


def published_forward(w: dict[str, Tensor], x: Tensor, heads: int, stages: int) -> Tensor:
    """The public network, operation by operation, from its parameters by their public names."""

    def conv(name: str, x: Tensor, padding: int = 0) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), padding=padding)

    def block(name: str, x: Tensor) -> Tensor:
        flat = w[f"{name}.proj.weight"].flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (
            flat.var(1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        weight = flat.view_as(w[f"{name}.proj.weight"])
        x = F.conv2d(x, weight, w[f"{name}.proj.bias"], padding=1)
        groups = x.unflatten(1, (8, -1)).flatten(2)
        groups = (groups - groups.mean(2, keepdim=True)) / (
            groups.var(2, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        gain, bias = w[f"{name}.norm.weight"], w[f"{name}.norm.bias"]
        return groups.view_as(x) * gain[None, :, None, None] + bias[None, :, None, None]

    def residual(name: str, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = F.linear(
            time * torch.sigmoid(time), w[f"{name}.mlp.1.weight"], w[f"{name}.mlp.1.bias"]
        ).chunk(2)
        h = block(f"{name}.block1", x) * (scale + 1)[:, None, None] + shift[:, None, None]
        h = block(f"{name}.block2", h * torch.sigmoid(h))
        skip = conv(f"{name}.res_conv", x) if f"{name}.res_conv.weight" in w else x
        return h * torch.sigmoid(h) + skip

    def layer_norm(gain: Tensor, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / ((centred**2).mean(1, keepdim=True) + 1e-5).sqrt() * gain

    def attention(name: str, x: Tensor, linear: bool) -> Tensor:
        b, _, h, wd = x.shape
        qkv = conv(f"{name}.fn.fn.to_qkv", layer_norm(w[f"{name}.fn.norm.g"], x))
        out = []
        for q, k, v in zip(*(part.chunk(heads, 1) for part in qkv.chunk(3, 1)), strict=True):
            q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
            if linear:
                q, k = q.softmax(1) / math.sqrt(q.shape[1]), k.softmax(2)
                out.append(
                    torch.einsum("bdn,ben,bdm->bem", k, v / (h * wd), q).reshape(b, -1, h, wd)
                )
            else:
                weights = torch.einsum("bdi,bdj->bij", q / math.sqrt(q.shape[1]), k).softmax(-1)
                out.append(torch.einsum("bij,bdj->bdi", weights, v).reshape(b, -1, h, wd))
        mixed = torch.cat(out, 1)
        if linear:
            mixed = layer_norm(w[f"{name}.fn.fn.to_out.1.g"], conv(f"{name}.fn.fn.to_out.0", mixed))
        else:
            mixed = conv(f"{name}.fn.fn.to_out", mixed)
        return mixed + x

    half = w["time_mlp.1.weight"].shape[1] // 2
    frequencies = torch.tensor([10_000 ** -(i / (half - 1)) for i in range(half)], dtype=x.dtype)
    time = torch.cat([frequencies.sin(), frequencies.cos()])
    time = F.gelu(F.linear(time, w["time_mlp.1.weight"], w["time_mlp.1.bias"]))
    time = F.linear(time, w["time_mlp.3.weight"], w["time_mlp.3.bias"])

    x = conv("init_conv", torch.cat([x, w["pos_embed"].expand(len(x), -1, -1, -1)], 1), 3)
    first, skips = x, []
    for i in range(stages):
        x = residual(f"downs.{i}.0", x, time)
        skips.append(x)
        x = attention(f"downs.{i}.2", residual(f"downs.{i}.1", x, time), True)
        skips.append(x)
        if i < stages - 1:  # four pixels become four channels: (c, row, column)
            corners = [x[:, :, r::2, c::2] for r in (0, 1) for c in (0, 1)]
            x = conv(f"downs.{i}.3.1", torch.stack(corners, 2).flatten(1, 2))
        else:
            x = conv(f"downs.{i}.3", x, 1)
    x = residual("mid_block1", x, time)
    x = residual("mid_block2", attention("mid_attn", x, False), time)
    for i in range(stages):
        x = residual(f"ups.{i}.0", torch.cat([x, skips.pop()], 1), time)
        x = residual(f"ups.{i}.1", torch.cat([x, skips.pop()], 1), time)
        x = attention(f"ups.{i}.2", x, True)
        if i < stages - 1:
            x = conv(f"ups.{i}.3.1", x.repeat_interleave(2, 2).repeat_interleave(2, 3), 1)
        else:
            x = conv(f"ups.{i}.3", x, 1)
    return conv("final_conv", residual("final_res_block", torch.cat([x, first], 1), time))


def test_planes_are_those_of_the_published_formulas(model: TriGen) -> None:
    model = model.double()
    images, depth = (x.double() for x in pairs())
    state = {published_name(name): t for name, t in model.state_dict().items()}
    with torch.no_grad():
        expected = published_forward(state, torch.cat([2 * images - 1, 4 + 2 * depth], 1), 2, 2)
        planes = model.encode(images, depth)
    assert planes.shape == (2, 3, 8, 16, 16)
    assert_close(planes, expected.view(2, 3, 8, 16, 16), rtol=1e-9, atol=1e-9)


def test_decoder_scales_its_weights_when_used(model: TriGen) -> None:
    view, raw = model.decoder_view, dict(model.decoder.net.named_parameters())
    assert view.activation == "softplus"
    for i, (weight, bias) in enumerate(zip(view.weights, view.biases, strict=True)):
        assert_close(weight, raw[f"{2 * i}.weight"] / math.sqrt(weight.shape[1]))
        assert bias is raw[f"{2 * i}.bias"]
    view.weights[0].sum().backward()
    assert_close(raw["0.weight"].grad, torch.full((16, 8), 8**-0.5))
    fresh = TriGen(TINY).state_dict()["decoder.net.0.weight"]
    assert 0.8 < fresh.std() < 1.2, "raw weights are kept with variance 1"


def test_every_parameter_learns(model: TriGen) -> None:
    rendering = model(*pairs(), *rays())
    (rendering.rgb.square().sum() + rendering.depth.square().sum()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_a_view_can_be_learned() -> None:
    torch.manual_seed(0)
    model = TriGen(TINY)
    images, depth = pairs(1)
    images = F.avg_pool2d(images, 5, stride=1, padding=2)
    rays_o, rays_d = scene_rays(scene_c2w(torch.zeros(1), 0.0, 5.0), 16, 18.0)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3, betas=(0.9, 0.99))
    losses = []
    for step in range(25):
        rendering = model(images, depth, rays_o, rays_d, seed=step)
        error = model.pictures(rendering).permute(0, 3, 1, 2) - images
        loss = error.abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_autocast_encodes_in_bf16_close_to_fp32(model: TriGen) -> None:
    with torch.no_grad():
        exact = model.encode(*pairs())
        with torch.autocast("cpu", torch.bfloat16):
            planes = model.encode(*pairs())
    error = (planes.float() - exact).norm() / exact.norm()
    assert error < 0.05, f"relative error {error:.3f}"


# --- the input -----------------------------------------------------------------------------------


def test_the_network_sees_signed_colours_and_distances(
    model: TriGen, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda x: seen.append(x) or forward(x))
    images, depth = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    images[..., 0], depth[..., 0] = 1.0, 0.5
    model.encode(images, depth)
    assert_close(seen[0][0, :, 3, 0], torch.tensor([1.0, 1.0, 1.0, 5.0]))
    assert_close(seen[0][0, :, 3, 1], torch.tensor([-1.0, -1.0, -1.0, 4.0]))
    model.encode(images + 0.005, depth - 0.005)  # resampling overshoots a little
    assert_close(seen[1][0, :, 3, 0], torch.tensor([1.0, 1.0, 1.0, 4.99]))
    assert seen[1][0, 3].min() == 4.0


def test_picture_and_depth_may_have_sizes_of_their_own(model: TriGen) -> None:
    images, depth = pairs(1, size=40)[0], pairs(1, size=24)[1]

    def small(x: Tensor) -> Tensor:
        return F.interpolate(x, (16, 16), mode="bilinear", align_corners=False, antialias=True)

    assert_close(model.encode(images, depth), model.encode(small(images), small(depth)))


IMAGES, DEPTH = torch.rand(1, 3, 16, 16), torch.rand(1, 1, 16, 16)


@pytest.mark.parametrize(
    ("images", "depth", "error", "hint"),
    [
        (IMAGES[0], DEPTH, ValueError, r"images\[None\]"),
        (IMAGES.mT.permute(0, 2, 3, 1), DEPTH, ValueError, "permute"),
        (torch.rand(1, 4, 16, 16), DEPTH, ValueError, "with alpha"),
        (torch.rand(1, 3, 16, 12), DEPTH, ValueError, "same square"),
        (IMAGES * 255, DEPTH, ValueError, "255"),
        (IMAGES.mul(255).byte(), DEPTH, TypeError, "/ 255"),
        (IMAGES, DEPTH[0], ValueError, r"depth\[None\]"),
        (IMAGES, torch.rand(2, 16, 16), ValueError, r"depth\[:, None\]"),
        (IMAGES, IMAGES, ValueError, r"depth must be \(B, 1, H, W\)"),
        (IMAGES, DEPTH * 65535, ValueError, "divide 16-bit values by 65535"),
        (IMAGES, DEPTH.mul(65535).int(), TypeError, "/ 65535"),
        (IMAGES, DEPTH + 4, ValueError, "from 4"),
        (IMAGES, torch.full((1, 1, 16, 16), float("nan")), ValueError, "NaN"),
        (IMAGES, torch.rand(2, 1, 16, 16), ValueError, "1 images and 2 depths"),
        (IMAGES, DEPTH.to("meta"), ValueError, "one device"),
        (IMAGES, None, TypeError, "NoneType"),
    ],
)
def test_encode_refuses_what_is_not_a_picture_with_depth(
    model: TriGen, images: Tensor, depth: Tensor, error: type[Exception], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        model.encode(images, depth)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (replace(TINY, width=12), "width"),
        (replace(TINY, multipliers=()), "multipliers"),
        (replace(TINY, multipliers=(1, 0)), "multipliers"),
        (replace(TINY, size=18, levels=(0, 2)), "multiple of 4"),
        (replace(TINY, size=18, multipliers=(1, 1, 1), levels=(0,)), "multiple of 4"),
        (replace(TINY, levels=()), "levels"),
        (replace(TINY, levels=(0, -1)), "levels"),
        (replace(TINY, heads=0), "heads"),
        (replace(TINY, camera=SceneCameraConfig(depth_range=(6.0, 4.0))), "depth_range"),
    ],
)
def test_sizes_that_do_not_fit_are_named(config: TriGenConfig, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TriGen(config)


# --- planes, rendered ----------------------------------------------------------------------------


def antialiased(plane: Tensor, factor: int) -> Tensor:
    """``plane (..., P, P)`` shrunk by a triangle filter of that width, renormalised at borders."""
    size = plane.shape[-1]
    centres = (torch.arange(size // factor) + 0.5) * factor
    distance = (torch.arange(size) + 0.5 - centres[:, None]).abs() / factor
    matrix = (1 - distance).clamp(min=0)
    matrix = matrix / matrix.sum(1, keepdim=True)
    return matrix @ plane @ matrix.T


@pytest.mark.parametrize("levels", [(0, 1, 2), (2, 2, 2), (1, 1, 2), (0,)])
@pytest.mark.parametrize("axes", ["orthogonal", "eg3d"])
def test_features_are_summed_over_levels(levels: tuple[int, ...], axes: str) -> None:
    torch.manual_seed(2)
    render = replace(TINY.render, axes=PLANE_AXES[axes])
    model = TriGen(replace(TINY, levels=levels, render=render))
    planes, points = torch.randn(1, 3, 8, 16, 16), torch.empty(1, 50, 3).uniform_(-1.1, 1.1)
    total = torch.zeros(50, 8)
    for level in levels:
        for plane, (u, v) in zip(planes[0], PLANE_AXES[axes], strict=True):
            grid = points[0][:, ["xyz".index(u), "xyz".index(v)]][None, None]
            small = antialiased(plane, 2**level)[None]
            total += F.grid_sample(small, grid, align_corners=False)[0, :, 0].T / 3
    raw = model.decoder(total)
    for given in (planes, model.pyramid(planes)):
        sigmas, rgbs = model.query(given, points)
        assert_close(sigmas[0], F.softplus(raw[:, 0] - 1), rtol=1e-4, atol=1e-5)
        assert_close(rgbs[0], torch.sigmoid(raw[:, 1:]) * 1.002 - 0.001, rtol=1e-4, atol=1e-5)


def test_levels_may_be_replaced_at_one_rendering(model: TriGen) -> None:
    planes, (rays_o, rays_d) = torch.randn(2, 3, 8, 16, 16), rays()
    coarse = TriGen(replace(TINY, levels=(2, 2, 2)))
    coarse.load_state_dict(model.state_dict())
    swapped = model.pyramid(planes, levels=(2, 2, 2))
    assert [level.shape[-1] for level in swapped] == [4, 4, 4]
    expected = coarse.render(planes, rays_o, rays_d, seed=0).rgb
    assert_close(model.render(swapped, rays_o, rays_d, seed=0).rgb, expected)
    assert not torch.allclose(model.render(planes, rays_o, rays_d, seed=0).rgb, expected)
    with pytest.raises(ValueError, match="levels must name"):
        model.pyramid(planes, levels=(-1,))


def test_a_pyramid_serves_many_renderings(model: TriGen) -> None:
    planes = torch.randn(2, 3, 8, 16, 16, requires_grad=True)
    levels = model.pyramid(planes)
    loss = torch.zeros(())
    for yaw in (0.0, 0.2):
        rays_o, rays_d = rays(yaws=(yaw, -yaw))
        again = model.render(planes, rays_o, rays_d, seed=4)
        rendering = model.render(levels, rays_o, rays_d, seed=4)
        assert_close(rendering.rgb, again.rgb)
        loss = loss + rendering.rgb.sum()
    (gradient,) = torch.autograd.grad(loss, planes)
    assert gradient.abs().sum() > 0


def test_early_stop_in_evaluation_changes_little(model: TriGen) -> None:
    with torch.no_grad():
        model.state_dict()["decoder.net.2.bias"][0] = 20.0  # a few samples make a ray opaque
        planes, (rays_o, rays_d) = torch.randn(2, 3, 8, 16, 16), rays()
        exact = model.train().render(planes, rays_o, rays_d, seed=1).rgb
        stopped = model.eval().render(planes, rays_o, rays_d, seed=1).rgb
    assert not torch.equal(stopped, exact)
    assert_close(stopped, exact, rtol=0, atol=4e-3)  # colours span 2


def test_pictures_are_in_the_unit_range(model: TriGen) -> None:
    rendering = model.render(torch.randn(2, 3, 8, 16, 16), *rays())
    assert_close(model.pictures(rendering), (rendering.rgb + 1) / 2)
    unit = replace(TINY.render, rgb_range=(0.0, 1.0))
    assert_close(model.pictures(rendering, unit), rendering.rgb)


def test_nothing_is_black(model: TriGen) -> None:
    rays_o, rays_d = rays()
    missed = model.render(torch.randn(2, 3, 8, 16, 16), rays_o, -rays_d)
    assert_close(model.pictures(missed), torch.zeros(2, 6, 6, 3))
    assert not missed.opacity.any()


def test_people_get_more_samples(model: TriGen) -> None:
    assert (model.viewing_settings.n_samples, model.viewing_settings.n_importance) == (64, 64)
    finer = TriGen(replace(TINY, render=RenderSettings.g3dr(n_samples=96, n_importance=0)))
    assert (finer.viewing_settings.n_samples, finer.viewing_settings.n_importance) == (96, 0)


def test_a_known_depth_scales_gradients_and_no_value(model: TriGen) -> None:
    planes = torch.randn(2, 3, 8, 16, 16, requires_grad=True)
    rays_o, rays_d = rays()
    known = depth_to_distance(torch.full((2, 6, 6), 0.4))

    def render(prior: Tensor | None) -> tuple[Tensor, Tensor]:
        rendering = model.render(planes, rays_o, rays_d, seed=3, depth_prior=prior)
        (gradient,) = torch.autograd.grad(rendering.rgb.square().sum(), planes)
        return rendering.rgb, gradient

    rgb, gradient = render(None)
    same, scaled = render(known)
    assert_close(same, rgb)
    assert scaled.norm() < 0.9 * gradient.norm()
    assert_close(render(torch.full_like(known, float("nan")))[1], gradient)


def test_samples_may_be_given(model: TriGen) -> None:
    """A rendering at known positions, by the quadrature rule written out."""
    planes, (rays_o, rays_d) = torch.randn(2, 3, 8, 16, 16), rays(4)
    ts = depth_to_distance(torch.full((2, 4, 4, 1), 0.5)) + torch.linspace(-0.3, 0.3, 9)
    rendering = model.render(planes, rays_o, rays_d, ts=ts)
    points = rays_o[..., None, :] + ts[..., None] * rays_d[..., None, :]
    raw, rgbs = model.query(planes, points, raw=True)
    middle, colours = (raw[..., 1:] + raw[..., :-1]) / 2, (rgbs[..., 1:, :] + rgbs[..., :-1, :]) / 2
    alphas = 1 - torch.exp(-F.softplus(middle - 1) * ts.diff(dim=-1))
    passed = torch.cat([torch.ones_like(alphas[..., :1]), 1 - alphas[..., :-1]], -1).cumprod(-1)
    weights = (alphas * passed)[..., None]
    assert_close(rendering.rgb, 2 * (weights * colours).sum(-2) - 1, rtol=1e-4, atol=1e-5)


# --- meshes --------------------------------------------------------------------------------------


class Ball(TriGen):
    """A model whose field is a ball to the right, above and nearer than the origin."""

    centre = torch.tensor([-0.3, 0.2, 0.1])  # nearer, up, right

    def query(self, planes: object, points: Tensor, **kwargs: object) -> tuple[Tensor, Tensor]:
        distance = (points - self.centre).norm(dim=-1)
        return 10.0 * (20.0 * (0.4 - distance)).exp(), (points / 2.5 + 0.5).clamp(0, 1)


def test_meshes_stand_as_the_picture_shows_them() -> None:
    mesh = extract_mesh(Ball(TINY).eval(), torch.zeros(1, 3, 8, 16, 16), resolution=32)
    distance = np.linalg.norm(mesh.vertices - [0.1, 0.2, 0.3], axis=1)  # right, up, to the viewer
    np.testing.assert_allclose(distance, 0.4, atol=5e-3)
    assert mesh.is_watertight
    assert mesh.volume > 0


def test_a_field_becomes_a_mesh(model: TriGen) -> None:
    planes = torch.randn(1, 3, 8, 16, 16, generator=torch.Generator().manual_seed(5))
    levels = model.pyramid(planes)
    grid = density_grid(model, levels, 9)
    assert_close(grid, density_grid(model, planes, 9))
    mesh = extract_mesh(model, levels, resolution=16, level=float(grid.median()))
    assert len(mesh.faces) > 20
    with pytest.raises(ValueError, match="one object"):
        extract_mesh(model, model.pyramid(planes.expand(2, -1, -1, -1, -1)), resolution=16)


def test_saved_models_are_the_same(model: TriGen, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = TriGen.from_pretrained(tmp_path)
    assert again.config == model.config
    assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    with torch.no_grad():
        assert torch.equal(again.encode(*pairs()), model.encode(*pairs()))
