"""TripoSR's configuration file and the drop-in renderer, against its published formulas."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrecon.checkpoint import CheckpointError
from fastrecon.config import LRMConfig
from fastrecon.interop.triposr import Renderer, config_from_yaml, read_config


class NeRFMLP(nn.Module):
    """What a program built on tsr hands to its renderer."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, 16), nn.SiLU(inplace=True), nn.Linear(16, 4)
        )


@pytest.fixture
def decoder() -> NeRFMLP:
    torch.manual_seed(0)
    decoder = NeRFMLP(3 * 6)
    for parameter in decoder.parameters():
        parameter.data *= 3
    return decoder


def plain_field(decoder: NeRFMLP, triplane: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    p = points / 0.87
    grid = torch.stack([p[:, [0, 1]], p[:, [0, 2]], p[:, [1, 2]]])[:, None]
    features = F.grid_sample(triplane, grid, align_corners=False)[:, :, 0]  # (3, C, N)
    raw = decoder.layers(features.permute(2, 0, 1).flatten(1))
    return raw[:, :1], raw[:, 1:]


def plain_rgb(decoder: NeRFMLP, triplane: Tensor, o: Tensor, d: Tensor, n: int = 128) -> Tensor:
    half = 0.87 * (1 - 1e-3)
    near = torch.minimum((half - o) / d, (-half - o) / d).max().clamp(min=0)
    far = torch.maximum((half - o) / d, (-half - o) / d).min()
    t = near + (far - near) * (torch.arange(n) + 0.5) / n
    density, features = plain_field(decoder, triplane, o + t[:, None] * d)
    alpha = 1 - torch.exp(-torch.exp(density[:, 0] - 1) / n)
    light = torch.cat([torch.ones(1), torch.cumprod(1 - alpha + 1e-10, 0)[:-1]])
    return (alpha * light) @ torch.sigmoid(features) + 1 - (alpha * light).sum()


def rays(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rays_o = torch.tensor([1.9, 0.0, 0.0]).expand(*shape, 3)
    aim = torch.empty(*shape, 3).uniform_(-0.6, 0.6, generator=generator)
    return rays_o, F.normalize(aim - rays_o, dim=-1)


def test_one_triplane(decoder: NeRFMLP) -> None:
    triplane, (rays_o, rays_d) = torch.randn(3, 6, 8, 8), rays(3, 4)
    rgb = Renderer()(decoder, triplane, rays_o, rays_d)
    assert rgb.shape == (3, 4, 3)
    expected = [
        plain_rgb(decoder, triplane, o, d)
        for o, d in zip(rays_o.reshape(-1, 3), rays_d.reshape(-1, 3), strict=True)
    ]
    torch.testing.assert_close(rgb.reshape(-1, 3), torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert (1 - rgb).abs().mean() > 0.05, "a white picture proves nothing"


def test_a_batch_is_its_triplanes_one_by_one(decoder: NeRFMLP) -> None:
    triplanes, (rays_o, rays_d) = torch.randn(2, 3, 6, 8, 8), rays(2, 5)
    renderer = Renderer()
    rgb = renderer(decoder, triplanes, rays_o, rays_d)
    for i in (0, 1):
        one = renderer(decoder, triplanes[i], rays_o[i], rays_d[i])
        torch.testing.assert_close(rgb[i], one)


def test_rays_may_miss(decoder: NeRFMLP) -> None:
    rays_o, rays_d = torch.tensor([[1.9, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    rgb = Renderer()(decoder, torch.randn(3, 6, 8, 8), rays_o, rays_d)
    assert torch.equal(rgb, torch.ones(1, 3))


def test_gradients_reach_triplane_and_decoder(decoder: NeRFMLP) -> None:
    triplane = torch.randn(3, 6, 8, 8, requires_grad=True)
    Renderer()(decoder, triplane, *rays(4)).square().sum().backward()
    assert triplane.grad is not None
    assert float(triplane.grad.abs().sum()) > 0
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())


@pytest.mark.parametrize("chunk", [0, 1, 7, 1000])
def test_query_triplane(decoder: NeRFMLP, chunk: int) -> None:
    triplane = torch.randn(3, 6, 8, 8)
    positions = torch.empty(4, 5, 3).uniform_(-0.8, 0.8)
    renderer = Renderer()
    renderer.set_chunk_size(chunk)
    field = renderer.query_triplane(decoder, positions, triplane)
    density, features = plain_field(decoder, triplane, positions.reshape(-1, 3))
    expected = {
        "density": density,
        "features": features,
        "density_act": torch.exp(density - 1),
        "color": torch.sigmoid(features),
    }
    assert field.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(field[name], value.view(4, 5, -1), rtol=1e-4, atol=1e-4)


def test_no_points(decoder: NeRFMLP) -> None:
    field = Renderer().query_triplane(decoder, torch.zeros(0, 3), torch.randn(3, 6, 8, 8))
    assert {name: tuple(x.shape) for name, x in field.items()} == {
        "density": (0, 1),
        "features": (0, 3),
        "density_act": (0, 1),
        "color": (0, 3),
    }


@dataclass
class TheirConfig:
    radius: float = 0.5
    feature_reduction: str = "mean"
    density_activation: str = "softplus"
    density_bias: float = -2.0
    color_activation: str = "sigmoid"
    num_samples_per_ray: int = 32
    randomized: bool = False


@pytest.mark.parametrize(
    "cfg", [TheirConfig(), vars(TheirConfig()), SimpleNamespace(**vars(TheirConfig()))]
)
def test_settings_come_from_their_configuration(cfg: Any) -> None:
    renderer = Renderer(cfg)
    assert renderer.cfg.radius == renderer.settings.radius == 0.5
    assert renderer.settings.reduction == "mean"
    assert renderer.settings.density_activation == "softplus"
    assert renderer.settings.density_shift == -2.0
    assert renderer.settings.n_samples == 32
    assert renderer.settings.interval == "chord"
    planes, decoder = torch.randn(3, 6, 8, 8), NeRFMLP(6)
    assert renderer.train()(decoder, planes, *rays(2)).shape == (2, 3)
    exact = renderer(decoder, planes, *rays(2))
    with torch.no_grad():
        assert torch.equal(renderer.eval()(decoder, planes, *rays(2)), exact)


def test_renderer_refuses_what_it_cannot_do(decoder: NeRFMLP) -> None:
    with pytest.raises(ValueError, match="color_activation"):
        Renderer({"radius": 0.87, "color_activation": "tanh"})
    with pytest.raises(ValueError, match="density_activation"):
        Renderer({"radius": 0.87, "density_activation": "tanh"})
    with pytest.raises(ValueError, match="unknown key 'texture'"):
        Renderer({"radius": 0.87, "texture": 1})
    with pytest.raises(ValueError, match="chunk_size"):
        Renderer().set_chunk_size(-1)
    with pytest.raises(TypeError, match="layers"):
        Renderer()(nn.Linear(18, 4), torch.randn(3, 6, 8, 8), *rays(2))
    with pytest.raises(ValueError, match=r"\(3, C, H, W\)"):
        Renderer().query_triplane(decoder, torch.zeros(1, 3), torch.randn(1, 3, 6, 8, 8))


@pytest.mark.parametrize(
    ("path", "value", "hint"),
    [
        (("backbone", "num_layers"), None, "backbone lacks num_layers"),
        (("backbone", "num_layers"), "16", "positive integer"),
        (("backbone", "num_layers"), True, "positive integer"),
        (("backbone", "in_channels"), 512, "in_channels must be 1024"),
        (("backbone", "cross_attention_dim"), 1024, "cross_attention_dim must be 768"),
        (("backbone", "activation_fn"), "gelu", "activation_fn must be 'geglu'"),
        (("backbone", "rope"), True, "unknown key 'rope'"),
        (("decoder", "in_channels"), 40, "in_channels must be 120"),
        (("decoder", "bias"), False, "bias must be True"),
        (("renderer", "radius"), "wide", "radius must be a number"),
        (("renderer", "density_activation"), "sigmoid", "density_activation"),
        (("image_tokenizer", "pretrained_model_name_or_path"), "me/vit", "dino-vitb16"),
        (("decoder_cls",), "my.models.Transformer", "must be a NeRFMLP"),
        (("backbone",), [1], "backbone must be a mapping"),
        (("camera",), {}, "unknown key 'camera'"),
    ],
)
def test_other_configurations_are_refused(
    published: dict[str, Any], path: tuple[str, ...], value: Any, hint: str
) -> None:
    section = published
    for key in path[:-1]:
        section = section[key]
    if value is None:
        del section[path[-1]]
    else:
        section[path[-1]] = value
    with pytest.raises(ValueError, match=hint):
        config_from_yaml(published)


def test_the_published_configuration_is_the_default(published: dict[str, Any]) -> None:
    assert config_from_yaml(published) == LRMConfig()


def test_training_options_do_not_matter(published: dict[str, Any]) -> None:
    published["backbone"] |= {"gradient_checkpointing": True, "norm_num_groups": 32}
    published["decoder"]["weight_init"] = "kaiming_uniform"
    published["renderer"] |= {"density_activation": "exp", "randomized": True}
    assert config_from_yaml(published) == LRMConfig()


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.getcwd []", "text", "", "\0"])
def test_yaml_that_is_not_one(tmp_path: Any, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        read_config(tmp_path / "config.yaml")
