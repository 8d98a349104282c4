"""The pose-conditioned model: the published formulas, its cameras, and whose world it lives in."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fastrecon_kernels import RenderSettings
from torch import Tensor, nn

from fastrecon.cameras import camera_rays, camera_vector, orbit_c2w
from fastrecon.config import BackboneConfig, DecoderConfig, EncoderConfig, LRMConfig
from fastrecon.models import LRM
from fastrecon.models.modulated import OWN_AXES, in_openlrm_world, in_own_world

TINY = LRMConfig(
    encoder=EncoderConfig(
        kind="dinov2",
        image_size=32,
        patch_size=8,
        dim=24,
        depth=2,
        heads=3,
        mlp_dim=96,
        position_grid=5,
        registers=2,
    ),
    backbone=BackboneConfig(
        conditioning="camera",
        camera_dim=20,
        grid=4,
        dim=48,
        depth=2,
        heads=4,
        head_dim=12,
        channels=5,
    ),
    decoder=DecoderConfig(hidden=16, layers=3, activation="relu"),
    render=RenderSettings.openlrm(n_samples=12, n_importance=12, stratified=False, axes=OWN_AXES),
    camera_distance=2.0,
    fov_deg=67.38,
    mesh_level=3.0,
)
TO_OPENLRM = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""A point of this package's world as OpenLRM names it: its input camera stands on -y'."""


@pytest.fixture
def model() -> LRM:
    torch.manual_seed(0)
    model = LRM(TINY)
    for parameter in model.parameters():  # so that every parameter shows in the planes
        parameter.data = 0.25 * torch.randn_like(parameter)
    return model


def orbit_cameras(n: int) -> Tensor:
    azimuths = torch.linspace(0.3, 2.0, n)
    return camera_vector(orbit_c2w(azimuths, 0.4, 2.0), torch.linspace(40, 60, n))


# --- the published formulas --------------------------------------------------------------------


def plain_tokens(s: dict[str, Tensor], images: Tensor, config: EncoderConfig) -> Tensor:
    """DINOv2 in plain PyTorch, from the state dict alone."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        weight, bias = s[f"{name}.weight"], s[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, eps=1e-6)

    vit, n, g = "image_tokenizer.model", config.image_size // config.patch_size, 5
    x = F.conv2d(
        images,
        s[f"{vit}.patch_embed.proj.weight"],
        s[f"{vit}.patch_embed.proj.bias"],
        stride=config.patch_size,
    )
    x = x.flatten(2).mT
    table = s[f"{vit}.pos_embed"]
    grid = table[:, 1:].mT.reshape(1, -1, g, g)
    grid = F.interpolate(grid, size=(n, n), mode="bicubic", antialias=True).flatten(2).mT
    batch = len(images)
    cls = (s[f"{vit}.cls_token"] + table[:, :1]).expand(batch, -1, -1)
    registers = s[f"{vit}.register_tokens"].expand(batch, -1, -1)
    x = torch.cat([cls, registers, x + grid], dim=1)
    for i in range(config.depth):
        block = f"{vit}.blocks.{i}"
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x))
        qkv = qkv.view(batch, -1, 3, config.heads, config.dim // config.heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        attended = (weights @ v).transpose(1, 2).flatten(2)
        x = x + s[f"{block}.ls1.gamma"] * linear(f"{block}.attn.proj", attended)
        hidden = F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + s[f"{block}.ls2.gamma"] * linear(f"{block}.mlp.fc2", hidden)
    x = norm(f"{vit}.norm", x)
    return torch.cat([x[:, :1], x[:, 1 + config.registers :]], dim=1)


def oracle_attention(s: dict[str, Tensor], name: str, heads: int) -> nn.MultiheadAttention:
    """torch's attention with the weights of ``name``."""
    q, k, v = (s[f"{name}.to_{part}.weight"] for part in "qkv")
    attention = nn.MultiheadAttention(
        q.shape[0], heads, bias=False, kdim=k.shape[1], vdim=v.shape[1], batch_first=True
    ).to(q.dtype)
    if k.shape == q.shape:
        assert attention.in_proj_weight is not None
        attention.in_proj_weight.data = torch.cat([q, k, v])
    else:
        attention.q_proj_weight.data = q
        attention.k_proj_weight.data = k
        attention.v_proj_weight.data = v
    attention.out_proj.weight.data = s[f"{name}.to_out.0.weight"]
    return attention


def plain_planes(
    s: dict[str, Tensor], context: Tensor, cameras: Tensor, config: BackboneConfig
) -> Tensor:
    """OpenLRM's planes over its own axes; ``cameras`` are of its own world."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    camera = linear("camera_embedder.mlp.2", F.silu(linear("camera_embedder.mlp.0", cameras)))

    def norm(name: str, x: Tensor) -> Tensor:
        weight, bias = s[f"{name}.norm.weight"], s[f"{name}.norm.bias"]
        x = F.layer_norm(x, weight.shape, weight, bias, eps=1e-6)
        both = linear(f"{name}.mlp.1", F.silu(camera))
        shift, scale = both[:, None, : x.shape[-1]], both[:, None, x.shape[-1] :]
        return x * (1 + scale) + shift

    tokens = s["tokenizer.embeddings"].permute(0, 2, 3, 1).reshape(1, -1, config.dim)
    x = tokens.repeat(len(context), 1, 1)
    for i in range(config.depth):
        layer = f"backbone.layers.{i}"
        cross = oracle_attention(s, f"{layer}.cross_attn", config.heads)
        x = x + cross(norm(f"{layer}.norm1", x), context, context)[0]
        itself = oracle_attention(s, f"{layer}.self_attn", config.heads)
        y = norm(f"{layer}.norm2", x)
        x = x + itself(y, y, y)[0]
        y = norm(f"{layer}.norm3", x)
        x = x + linear(f"{layer}.mlp.3", F.gelu(linear(f"{layer}.mlp.0", y)))
    weight, bias = s["backbone.norm.weight"], s["backbone.norm.bias"]
    x = F.layer_norm(x, weight.shape, weight, bias, eps=1e-6)
    x = x.view(len(context), 3, config.grid, config.grid, config.dim)
    up = torch.einsum("bprcd,dkij->bpkricj", x, s["post_processor.upsample.weight"])
    side = 2 * config.grid
    up = up.reshape(len(context), 3, config.channels, side, side)
    return up + s["post_processor.upsample.bias"].view(-1, 1, 1)


def openlrm_vectors(azimuths: Tensor, elevation: float, fov_deg: float) -> Tensor:
    """Orbit cameras as OpenLRM writes them, looking at the origin from distance 2."""
    rows = []
    for azimuth in azimuths.tolist():
        theta, flat = azimuth - math.pi / 2, 2.0 * math.cos(elevation)
        height = 2.0 * math.sin(elevation)
        place = torch.tensor([flat * math.cos(theta), flat * math.sin(theta), height])
        back = F.normalize(place, dim=0)
        right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), back), dim=0)
        c2w = torch.stack([right, torch.linalg.cross(back, right), back, place], dim=1)
        focal = 0.5 / math.tan(math.radians(fov_deg) / 2)
        rows.append(torch.cat([c2w.flatten(), torch.tensor([focal, focal, 0.5, 0.5])]))
    return torch.stack(rows)


def test_encode_is_the_published_formulas(model: LRM) -> None:
    images, azimuths = torch.rand(2, 3, 32, 32), torch.tensor([0.0, 1.1])
    state = {name: t.double() for name, t in model.state_dict().items()}
    context = plain_tokens(state, images.double(), TINY.encoder)
    torch.testing.assert_close(
        model.image_tokenizer(images).double(), context, rtol=1e-3, atol=1e-3
    )
    theirs = openlrm_vectors(azimuths, 0.4, 50.0)
    expected = plain_planes(state, context, theirs.double(), TINY.backbone)

    planes = model.encode(images, camera_vector(orbit_c2w(azimuths, 0.4, 2.0), 50.0))
    assert planes.shape == (2, 3, 5, 8, 8)
    torch.testing.assert_close(planes.double(), in_own_world(expected), rtol=1e-3, atol=1e-3)
    assert (planes[0] - planes[1]).abs().max() > 0.01, "the picture does not reach the planes"


def test_widths_that_agree_take_the_same_path() -> None:
    """The base model's case: context as wide as the tokens."""
    config = replace(TINY, encoder=replace(TINY.encoder, dim=48))
    torch.manual_seed(1)
    model = LRM(config)
    state = {name: t.double() for name, t in model.state_dict().items()}
    images = torch.rand(1, 3, 32, 32)
    context = plain_tokens(state, images.double(), config.encoder)
    cameras = openlrm_vectors(torch.zeros(1), 0.0, TINY.fov_deg)
    expected = plain_planes(state, context, cameras.double(), config.backbone)
    planes = model.encode(images)
    torch.testing.assert_close(planes.double(), in_own_world(expected), rtol=1e-3, atol=1e-3)


# --- worlds ------------------------------------------------------------------------------------


def test_the_canonical_camera_is_openlrms() -> None:
    own = camera_vector(orbit_c2w(0.0, 0.0, 2.0), math.degrees(2 * math.atan(0.5 / 0.75)))
    expected = torch.tensor(
        [1, 0, 0, 0, 0, 0, -1, -2, 0, 1, 0, 0, 0.75, 0.75, 0.5, 0.5], dtype=torch.float32
    )
    torch.testing.assert_close(in_openlrm_world(own[None])[0], expected)


def test_cameras_turn_with_the_world() -> None:
    azimuths = torch.tensor([0.0, 0.5, 2.0, -1.0])
    own = camera_vector(orbit_c2w(azimuths, 0.3, 2.0), 45.0)
    theirs = openlrm_vectors(azimuths, 0.3, 45.0)
    torch.testing.assert_close(in_openlrm_world(own), theirs, rtol=1e-5, atol=1e-5)


def test_a_point_keeps_its_value_in_either_world(model: LRM) -> None:
    theirs = torch.randn(1, 3, 5, 8, 8)
    points = torch.empty(1, 50, 3).uniform_(-0.9, 0.9)
    moved = points @ TO_OPENLRM.T
    sigmas, rgbs = model.query(in_own_world(theirs), points)
    openlrm = replace(TINY.render, axes=("xy", "xz", "zy"))
    expected = model.query(theirs, moved, settings=openlrm)
    torch.testing.assert_close(sigmas, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rgbs, expected[1], rtol=1e-4, atol=1e-5)


def test_pictures_from_an_orbit_are_openlrms(model: LRM) -> None:
    """Our cameras around our planes see what OpenLRM's see around its own."""
    for parameter in model.decoder.parameters():
        parameter.data *= 3  # densities that matter
    theirs = 3 * torch.randn(1, 3, 5, 8, 8)
    c2w = orbit_c2w(torch.tensor([0.0, 1.0]), 0.3, 2.0)
    rays_o, rays_d = camera_rays(c2w, 6, 6, 40.0)
    openlrm = replace(TINY.render, axes=("xy", "xz", "zy"))
    with torch.no_grad():
        model.train()
        own = model.render(in_own_world(theirs), rays_o[None], rays_d[None])
        turned = model.render(
            theirs, rays_o[None] @ TO_OPENLRM.T, rays_d[None] @ TO_OPENLRM.T, settings=openlrm
        )
    torch.testing.assert_close(own.rgb, turned.rgb, rtol=1e-3, atol=1e-3)
    assert 0.3 < own.opacity.mean() < 1, "a test of empty space proves nothing"
    assert (own.rgb[:, 0] - own.rgb[:, 1]).abs().max() > 0.01, "all views look alike"


# --- behaviour ---------------------------------------------------------------------------------


def test_without_cameras_the_canonical_one_is_taken(model: LRM) -> None:
    images = torch.rand(3, 3, 32, 32)
    c2w = orbit_c2w(torch.zeros(3), 0.0, TINY.camera_distance)
    explicit = model.encode(images, camera_vector(c2w, TINY.fov_deg))
    torch.testing.assert_close(model.encode(images), explicit)


def test_cameras_change_the_planes(model: LRM) -> None:
    images = torch.rand(1, 3, 32, 32)
    canonical = model.encode(images)
    for camera in (
        camera_vector(orbit_c2w(0.0, 0.0, 2.5), TINY.fov_deg),
        camera_vector(orbit_c2w(0.0, 0.0, 2.0), 30.0),
        camera_vector(orbit_c2w(1.0, 0.0, 2.0), TINY.fov_deg),
    ):
        assert (model.encode(images, camera[None]) - canonical).abs().max() > 1e-3


def test_each_picture_follows_its_own_camera(model: LRM) -> None:
    images, cameras = torch.rand(2, 3, 32, 32), orbit_cameras(2)
    together = model.encode(images, cameras)
    alone = torch.cat([model.encode(images[i : i + 1], cameras[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_forward_trains_every_parameter(model: LRM) -> None:
    rays_o, rays_d = camera_rays(orbit_c2w(torch.tensor([0.0, 1.0]), 0.2, 2.0), 4, 4, 50.0)
    rendering = model(
        torch.rand(2, 3, 32, 32),
        rays_o.flatten(1, 2),
        rays_d.flatten(1, 2),
        cameras=orbit_cameras(2),
    )
    rendering.rgb.square().sum().backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not without


def test_gradients_reach_the_camera(model: LRM) -> None:
    cameras = orbit_cameras(1).requires_grad_()
    model.encode(torch.rand(1, 3, 32, 32), cameras).square().sum().backward()
    assert cameras.grad is not None
    assert bool(cameras.grad.ne(0).all())


@pytest.mark.parametrize(
    ("cameras", "error", "hint"),
    [
        (torch.zeros(2, 16), ValueError, r"\(1, 16\).*got \(2, 16\).*camera_vector"),
        (torch.zeros(16), ValueError, r"got \(16,\)"),
        (torch.zeros(1, 4, 4), ValueError, r"camera_vector\(c2w, fov_deg\)"),
        (torch.zeros(1, 16, dtype=torch.int64), ValueError, "int64"),
        ([0.0] * 16, TypeError, "got list"),
    ],
)
def test_encode_refuses_what_is_not_a_camera(
    model: LRM, cameras: Tensor, error: type[Exception], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        model.encode(torch.rand(1, 3, 32, 32), cameras)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (replace(TINY, encoder=replace(TINY.encoder, kind="clip")), "encoder.kind"),
        (replace(TINY, encoder=replace(TINY.encoder, kind="dino")), "encoder.registers"),
        (replace(TINY, encoder=replace(TINY.encoder, registers=-1)), "encoder.registers"),
        (replace(TINY, backbone=replace(TINY.backbone, conditioning="pose")), "conditioning"),
        (replace(TINY, backbone=replace(TINY.backbone, camera_dim=0)), "backbone.camera_dim"),
        (replace(TINY, backbone=replace(TINY.backbone, head_dim=8)), "backbone.head_dim"),
        (replace(TINY, position_init="sincos"), "'sincos'"),
        (replace(TINY, input_background=255.0), "input_background"),
    ],
)
def test_options_that_do_not_fit_are_named(config: LRMConfig, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LRM(config)


@pytest.mark.parametrize("kind", ["dino", "dinov2"])
@pytest.mark.parametrize("conditioning", ["none", "camera"])
def test_encoders_and_backbones_combine(kind: str, conditioning: str) -> None:
    config = replace(
        TINY,
        encoder=replace(TINY.encoder, kind=kind, registers=0),
        backbone=replace(TINY.backbone, conditioning=conditioning, dim=64, head_dim=16),
    )
    assert LRM(config).encode(torch.rand(2, 3, 32, 32)).shape == (2, 3, 5, 8, 8)


def test_autocast_encodes_in_bf16_close_to_fp32() -> None:
    torch.manual_seed(0)
    model, images = LRM(TINY), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        exact = model.encode(images)
        with torch.autocast("cpu", torch.bfloat16):
            planes = model.encode(images)
    error = (planes.float() - exact).norm() / exact.norm()
    assert error < 0.05, f"relative error {error:.3f}"
