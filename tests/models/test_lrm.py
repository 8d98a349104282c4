"""The reconstruction model: names, the published formulas, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fastrecon_kernels import RenderSettings
from torch import Tensor

from fastrecon.config import BackboneConfig, DecoderConfig, EncoderConfig, LRMConfig
from fastrecon.models import LRM

TINY = LRMConfig(
    encoder=EncoderConfig(
        image_size=32, patch_size=8, dim=48, depth=2, heads=3, mlp_dim=96, position_grid=3
    ),
    backbone=BackboneConfig(grid=4, dim=64, depth=2, heads=4, head_dim=16, channels=5),
    decoder=DecoderConfig(hidden=16, layers=3),
    render=RenderSettings.triposr(n_samples=16),
)


@pytest.fixture
def model() -> LRM:
    torch.manual_seed(0)
    model = LRM(TINY)
    for parameter in model.parameters():  # so that every parameter shows in the planes
        parameter.data = 0.25 * torch.randn_like(parameter)
    return model


def rays(n: int, views: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    rays_o = torch.tensor([1.9, 0.0, 0.0]).expand(views, n, 3)
    aim = torch.empty(views, n, 3).uniform_(-0.8, 0.8, generator=generator)
    return rays_o, F.normalize(aim - rays_o, dim=-1)


# --- names -------------------------------------------------------------------------------------


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The parameters of TripoSR's model.ckpt, layer by layer."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, width: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, width)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    vit = "image_tokenizer.model"
    shapes[f"{vit}.embeddings.cls_token"] = (1, 1, 768)
    shapes[f"{vit}.embeddings.position_embeddings"] = (1, 197, 768)
    shapes[f"{vit}.embeddings.patch_embeddings.projection.weight"] = (768, 3, 16, 16)
    shapes[f"{vit}.embeddings.patch_embeddings.projection.bias"] = (768,)
    for i in range(12):
        layer = f"{vit}.encoder.layer.{i}"
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            linear(f"{layer}.attention.{part}", 768, 768)
        linear(f"{layer}.intermediate.dense", 3072, 768)
        linear(f"{layer}.output.dense", 768, 3072)
        norm(f"{layer}.layernorm_before", 768)
        norm(f"{layer}.layernorm_after", 768)
    norm(f"{vit}.layernorm", 768)
    linear(f"{vit}.pooler.dense", 768, 768)
    shapes["tokenizer.embeddings"] = (3, 1024, 32, 32)
    norm("backbone.norm", 1024)
    linear("backbone.proj_in", 1024, 1024)
    linear("backbone.proj_out", 1024, 1024)
    for i in range(16):
        block = f"backbone.transformer_blocks.{i}"
        for attention, width in (("attn1", 1024), ("attn2", 768)):
            linear(f"{block}.{attention}.to_q", 1024, 1024, bias=False)
            linear(f"{block}.{attention}.to_k", 1024, width, bias=False)
            linear(f"{block}.{attention}.to_v", 1024, width, bias=False)
            linear(f"{block}.{attention}.to_out.0", 1024, 1024)
        for name in ("norm1", "norm2", "norm3"):
            norm(f"{block}.{name}", 1024)
        linear(f"{block}.ff.net.0.proj", 8192, 1024)
        linear(f"{block}.ff.net.2", 1024, 4096)
    shapes["post_processor.upsample.weight"] = (1024, 40, 2, 2)
    shapes["post_processor.upsample.bias"] = (40,)
    for i, (out, width) in enumerate([(64, 120), *[(64, 64)] * 8, (4, 64)]):
        linear(f"decoder.layers.{2 * i}", out, width)
    return shapes


def test_parameters_are_those_of_the_released_checkpoints() -> None:
    with torch.device("meta"):
        state = LRM().state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == published_shapes()
    assert len(state) == 549
    assert sum(t.numel() for t in state.values()) == 419_275_628


# --- the published formulas --------------------------------------------------------------------


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    out = []
    for a, b, c in zip(*(x.chunk(heads, dim=-1) for x in (q, k, v)), strict=True):
        out.append((a @ b.mT / math.sqrt(a.shape[-1])).softmax(-1) @ c)
    return torch.cat(out, dim=-1)


def plain_encode(s: dict[str, Tensor], images: Tensor, config: LRMConfig) -> Tensor:
    """TripoSR's encoder in plain PyTorch, from the state dict alone."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ s[f"{name}.weight"].T + s.get(f"{name}.bias", torch.zeros(()))

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps).sqrt()
        return x * s[f"{name}.weight"] + s[f"{name}.bias"]

    vit, enc = "image_tokenizer.model", config.encoder
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).to(images)
    x = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    n, p, g = enc.image_size // enc.patch_size, enc.patch_size, enc.position_grid
    x = x.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5).reshape(len(x), n * n, -1)
    weight = s[f"{vit}.embeddings.patch_embeddings.projection.weight"]
    x = x @ weight.flatten(1).T + s[f"{vit}.embeddings.patch_embeddings.projection.bias"]
    table = s[f"{vit}.embeddings.position_embeddings"]
    grid = table[:, 1:].transpose(1, 2).reshape(1, -1, g, g)
    grid = F.interpolate(grid, scale_factor=((n + 0.1) / g,) * 2, mode="bicubic")
    cls = (s[f"{vit}.embeddings.cls_token"] + table[:, :1]).expand(len(x), 1, -1)
    x = torch.cat([cls, x + grid.flatten(2).transpose(1, 2)], dim=1)
    for i in range(enc.depth):
        layer = f"{vit}.encoder.layer.{i}"
        y = norm(f"{layer}.layernorm_before", x, 1e-12)
        qkv = (linear(f"{layer}.attention.attention.{m}", y) for m in ("query", "key", "value"))
        x = x + linear(f"{layer}.attention.output.dense", plain_attention(*qkv, enc.heads))
        y = linear(f"{layer}.intermediate.dense", norm(f"{layer}.layernorm_after", x, 1e-12))
        x = x + linear(f"{layer}.output.dense", y * 0.5 * (1 + torch.erf(y / math.sqrt(2))))
    context = norm(f"{vit}.layernorm", x, 1e-12)

    trunk = config.backbone
    tokens = s["tokenizer.embeddings"].transpose(0, 1).flatten(1)[None]  # (1, dim, 3 g g)
    grouped = tokens.reshape(1, 32, -1)
    variance = grouped.var(-1, correction=0, keepdim=True)
    h = ((grouped - grouped.mean(-1, keepdim=True)) / (variance + 1e-6).sqrt()).view_as(tokens).mT
    h = linear("backbone.proj_in", h * s["backbone.norm.weight"] + s["backbone.norm.bias"])
    h = h.expand(len(images), -1, -1)
    for i in range(trunk.depth):
        block = f"backbone.transformer_blocks.{i}"
        for j, attn in ((1, "attn1"), (2, "attn2")):
            y = norm(f"{block}.norm{j}", h, 1e-5)
            other = y if j == 1 else context
            q = linear(f"{block}.{attn}.to_q", y)
            k, v = (linear(f"{block}.{attn}.{m}", other) for m in ("to_k", "to_v"))
            h = h + linear(f"{block}.{attn}.to_out.0", plain_attention(q, k, v, trunk.heads))
        y = linear(f"{block}.ff.net.0.proj", norm(f"{block}.norm3", h, 1e-5))
        value, gate = y[..., : y.shape[-1] // 2], y[..., y.shape[-1] // 2 :]
        gate = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
        h = h + linear(f"{block}.ff.net.2", value * gate)
    h = linear("backbone.proj_out", h) + tokens.mT
    h = h.view(len(images), 3, trunk.grid, trunk.grid, trunk.dim)
    up = torch.einsum("bprcd,dkij->bpkricj", h, s["post_processor.upsample.weight"])
    up = up.reshape(len(images), 3, trunk.channels, 2 * trunk.grid, 2 * trunk.grid)
    return up + s["post_processor.upsample.bias"].view(-1, 1, 1)


def test_encode_is_the_published_formulas(model: LRM) -> None:
    images = torch.rand(2, 3, 32, 32)
    state = {name: t.double() for name, t in model.state_dict().items()}
    expected = plain_encode(state, images.double(), TINY)
    planes = model.encode(images)
    assert planes.shape == (2, 3, 5, 8, 8)
    torch.testing.assert_close(planes.double(), expected, rtol=1e-3, atol=1e-3)
    assert (planes[0] - planes[1]).abs().max() > 0.01, "the picture does not reach the planes"


def plain_render(model: LRM, planes: Tensor, rays_o: Tensor, rays_d: Tensor) -> Tensor:
    """TripoSR's renderer for one object: chord-scaled bins in the shrunken cube, on white."""
    n, radius = model.config.render.n_samples, model.config.render.radius
    colours = []
    for o, d in zip(rays_o, rays_d, strict=True):
        a, b = (((-1) ** i * 0.999 * radius - o) / d for i in (0, 1))
        near, far = torch.minimum(a, b).max().clamp(min=0), torch.maximum(a, b).min()
        if far - near <= 0.01:
            colours.append(torch.ones(3))
            continue
        t = near + (far - near) * (torch.arange(n) + 0.5) / n
        p = (o + t[:, None] * d) / radius
        grid = torch.stack([p[:, [0, 1]], p[:, [0, 2]], p[:, [1, 2]]])[:, None]
        features = F.grid_sample(planes, grid, align_corners=False)[:, :, 0]  # (3, C, n)
        raw = model.decoder.layers(features.permute(2, 0, 1).flatten(1))
        alpha = 1 - torch.exp(-torch.exp(raw[:, 0] - 1) / n)
        light = torch.cat([torch.ones(1), torch.cumprod(1 - alpha + 1e-10, 0)[:-1]])
        weights = alpha * light
        colours.append(weights @ torch.sigmoid(raw[:, 1:]) + 1 - weights.sum())
    return torch.stack(colours)


def test_render_is_the_published_formulas(model: LRM) -> None:
    for parameter in model.decoder.parameters():
        parameter.data *= 3  # densities that matter
    planes = 3 * torch.randn(2, 3, 5, 8, 8)
    rays_o, rays_d = rays(40, views=2)
    rays_d = rays_d.clone()
    rays_d[:, 7] = F.normalize(torch.tensor([0.1, 1.0, 0.1]), dim=-1)  # misses the box
    with torch.no_grad():
        rendering = model.train().render(planes, rays_o, rays_d)
        expected = [plain_render(model, *x) for x in zip(planes, rays_o, rays_d, strict=True)]
    torch.testing.assert_close(rendering.rgb, torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert torch.equal(rendering.rgb[:, 7], torch.ones(2, 3))
    assert 0.3 < rendering.opacity.mean() < 1, "a test of empty space proves nothing"


def test_query_gives_activated_density_and_colour(model: LRM) -> None:
    planes, points = torch.randn(1, 3, 5, 8, 8), torch.empty(1, 6, 3).uniform_(-0.8, 0.8)
    sigmas, rgbs = model.query(planes, points)
    p = points[0] / 0.87
    grid = torch.stack([p[:, [0, 1]], p[:, [0, 2]], p[:, [1, 2]]])[:, None]
    features = F.grid_sample(planes[0], grid, align_corners=False)[:, :, 0]
    raw = model.decoder(features.permute(2, 0, 1).flatten(1))
    torch.testing.assert_close(sigmas[0], torch.exp(raw[:, 0] - 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rgbs[0], torch.sigmoid(raw[:, 1:]), rtol=1e-4, atol=1e-5)


# --- behaviour ---------------------------------------------------------------------------------


def test_forward_trains_every_parameter_that_is_used(model: LRM) -> None:
    rendering = model(torch.rand(2, 3, 32, 32), *rays(16, views=2))
    rendering.rgb.square().sum().backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # softmax ignores what is added to all keys alike, and nothing reads the pooler
    assert without <= {n for n, _ in model.named_parameters() if "pooler" in n or "key.bias" in n}
    assert any("pooler" in n for n in without)


def test_decoder_view_holds_the_very_parameters(model: LRM) -> None:
    assert model.decoder_view.weights[0] is model.decoder.layers[0].weight
    assert model.decoder_view.activation == "silu"


def test_pictures_of_other_sizes_are_resized_first(model: LRM) -> None:
    big = torch.rand(1, 3, 50, 50)
    small = F.interpolate(big, (32, 32), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(model.encode(big), model.encode(small))


@pytest.mark.parametrize(
    ("training", "grad", "stops"),
    [(False, False, True), (False, True, False), (True, False, False), (True, True, False)],
)
def test_early_stop_only_in_eval_without_gradients(
    model: LRM, monkeypatch: pytest.MonkeyPatch, training: bool, grad: bool, stops: bool
) -> None:
    seen = []
    monkeypatch.setattr(
        "fastrecon.renderer.render_rays", lambda *args, **kwargs: seen.append((args[4], kwargs))
    )
    planes, (rays_o, rays_d) = torch.randn(1, 3, 5, 8, 8), rays(2)
    own = replace(TINY.render, n_samples=8)
    with torch.set_grad_enabled(grad):
        model.train(training).render(planes, rays_o, rays_d, seed=5, per_sample=True)
        model.render(planes, rays_o, rays_d, settings=own)
        model.render(planes, rays_o, rays_d, settings=replace(own, early_stop=0.25))
    assert [s.early_stop for s, _ in seen] == [1e-3 * stops, 1e-3 * stops, 0.25]
    assert replace(seen[0][0], early_stop=0.0) == TINY.render
    assert seen[1][0].n_samples == 8
    assert seen[0][1] == {"seed": 5, "per_sample": True}


def test_early_stop_changes_little(model: LRM) -> None:
    bias = model.decoder_view.biases[-1]
    assert bias is not None
    bias.data[0] = 4.5  # a few bins make a ray opaque
    planes, (rays_o, rays_d) = torch.randn(1, 3, 5, 8, 8), rays(32)
    with torch.no_grad():
        exact = model.train().render(planes, rays_o, rays_d).rgb
        stopped = model.eval().render(planes, rays_o, rays_d).rgb
    assert not torch.equal(exact, stopped)
    torch.testing.assert_close(exact, stopped, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("images", "error", "hint"),
    [
        (torch.rand(3, 32, 32), ValueError, r"images\[None\]"),
        (torch.rand(1, 32, 32, 3), ValueError, "permute"),
        (torch.rand(1, 4, 32, 32), ValueError, "grey"),
        (torch.rand(1, 1, 32, 32), ValueError, r"\(B, 3, H, W\)"),
        (torch.rand(1, 3, 32, 24), ValueError, "square"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "/ 255"),
        (torch.rand(1, 3, 32, 32) * 255, ValueError, "255"),
        (torch.rand(1, 3, 32, 32) - 0.5, ValueError, "normalisation"),
        (torch.full((1, 3, 32, 32), float("nan")), ValueError, "NaN"),
        ([[0.5]], TypeError, "torch.Tensor, got list"),
    ],
)
def test_encode_refuses_what_is_not_a_picture(
    model: LRM, images: Tensor, error: type[Exception], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        model.encode(images)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (replace(TINY, encoder=replace(TINY.encoder, image_size=33)), "encoder.image_size"),
        (replace(TINY, encoder=replace(TINY.encoder, heads=5)), "encoder.heads"),
        (replace(TINY, backbone=replace(TINY.backbone, head_dim=8)), "backbone.head_dim"),
        (replace(TINY, backbone=replace(TINY.backbone, depth=0)), "backbone.depth"),
        (replace(TINY, position_init="zero"), "position_init"),
        (replace(TINY, decoder=replace(TINY.decoder, activation="tanh")), "decoder.activation"),
    ],
)
def test_sizes_that_do_not_fit_are_named(config: LRMConfig, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LRM(config)


def test_features_may_be_summed_instead_of_stacked() -> None:
    config = replace(TINY, render=replace(TINY.render, reduction="mean"))
    model = LRM(config)
    assert model.decoder_view.n_features == 5
    assert model(torch.rand(1, 3, 32, 32), *rays(4)).rgb.shape == (1, 4, 3)


def test_autocast_encodes_in_bf16_close_to_fp32(model: LRM) -> None:
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        exact = model.encode(images)
        with torch.autocast("cpu", torch.bfloat16):
            planes = model.encode(images)
    error = (planes.float() - exact).norm() / exact.norm()
    assert error < 0.05, f"relative error {error:.3f}"


def test_a_model_with_a_known_camera_takes_none(model: LRM) -> None:
    with pytest.raises(ValueError, match="leave cameras=None"):
        model.encode(torch.rand(1, 3, 32, 32), torch.zeros(1, 16))
