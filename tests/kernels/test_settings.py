"""`RenderSettings` and its presets, field by field; `Decoder` and what it refuses."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Any

import pytest
import torch
from fastrecon_kernels import Decoder, DepthKernel, RenderSettings
from torch import nn

DEFAULT: dict[str, Any] = {
    "radius": 1.0,
    "n_samples": 128,
    "n_importance": 0,
    "stratified": False,
    "quadrature": "bins",
    "interval": "distance",
    "near_far": "box",
    "outside": "zero",
    "axes": ("xy", "xz", "yz"),
    "reduction": "concat",
    "density_activation": "trunc_exp",
    "density_shift": -1.0,
    "density_scale": 1.0,
    "rgb_padding": 0.0,
    "background": "white",
    "rgb_range": (0.0, 1.0),
    "depth_eps": 1e-3,
    "depth_kernel": (1.25, 0.03, 0.05, 1.0),
    "early_stop": 0.0,
}
EG3D_FAMILY = {
    "stratified": True,
    "quadrature": "midpoint",
    "density_activation": "softplus",
    "rgb_padding": 0.001,
}
PRESETS = {
    "default": (RenderSettings, {}),
    "triposr": (
        RenderSettings.triposr,
        {
            "radius": 0.87,
            "interval": "chord",
            "near_far": "tsr_box",
            "density_activation": "exp",
        },
    ),
    "g3dr": (
        RenderSettings.g3dr,
        {
            **EG3D_FAMILY,
            "n_samples": 32,
            "n_importance": 32,
            "reduction": "mean",
            "background": "black",
            "rgb_range": (-1.0, 1.0),
            "axes": ("xy", "xz", "zy"),
        },
    ),
    "openlrm": (
        RenderSettings.openlrm,
        {
            **EG3D_FAMILY,
            "n_samples": 48,
            "n_importance": 48,
            "axes": ("xy", "xz", "zy"),
            "outside": "empty",
        },
    ),
    "eg3d": (
        RenderSettings.eg3d,
        {
            **EG3D_FAMILY,
            "radius": 0.5,
            "n_samples": 48,
            "n_importance": 48,
            "near_far": (2.25, 3.3),
            "reduction": "mean",
            "background": "black",
            "rgb_range": (-1.0, 1.0),
            "depth_eps": 0.0,
            "axes": ("xy", "xz", "zx"),
        },
    ),
}


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets(name: str) -> None:
    make, differences = PRESETS[name]
    assert asdict(make()) == DEFAULT | differences
    assert {f.name for f in fields(RenderSettings)} == set(DEFAULT)
    assert replace(make(), n_samples=7) == make(n_samples=7)
    assert make(early_stop=0.1).early_stop == 0.1


@pytest.mark.parametrize("name", list(PRESETS))
def test_settings_hash_compare_and_survive_json(name: str) -> None:
    make, _ = PRESETS[name]
    settings = make(background=(0.1, 0.2, 0.3))
    again = RenderSettings(**json.loads(json.dumps(asdict(settings))))
    assert again == settings
    assert hash(again) == hash(settings)
    assert isinstance(again.depth_kernel, DepthKernel)
    assert len({settings, again, make()}) == 2
    with pytest.raises(FrozenInstanceError):
        settings.radius = 2.0  # type: ignore[misc]


def test_lists_and_integers_become_tuples_of_floats() -> None:
    settings = RenderSettings(
        near_far=[1, 2],  # type: ignore[arg-type]
        background=[0, 1, 0],  # type: ignore[arg-type]
        rgb_range=[-1, 1],  # type: ignore[arg-type]
        axes=["xy", "zx", "yz"],  # type: ignore[arg-type]
        depth_kernel=[1, 2, 3, 4],  # type: ignore[arg-type]
    )
    assert settings.near_far == (1.0, 2.0)
    assert settings.axes == ("xy", "zx", "yz")
    assert settings.depth_kernel == DepthKernel(1, 2, 3, 4)
    assert all(isinstance(x, float) for x in (*settings.background, *settings.rgb_range))


@pytest.mark.parametrize(
    ("background", "n", "expected"),
    [("white", 2, (1.0, 1.0)), ("black", 3, (0.0,) * 3), ((0.1, 0.9), 2, (0.1, 0.9))],
)
def test_background_colour(background: Any, n: int, expected: tuple[float, ...]) -> None:
    assert RenderSettings(background=background).background_colour(n) == expected


BAD = [
    ({"quadrature": "simpson"}, "quadrature must be one of 'bins', 'midpoint'; got 'simpson'"),
    ({"interval": "metres"}, "interval must be one of 'distance', 'chord'"),
    ({"outside": "wrap"}, "outside must be one of 'zero', 'empty'"),
    ({"reduction": "max"}, "reduction must be one of 'concat', 'sum', 'mean'"),
    ({"density_activation": "silu"}, "density_activation must be one of 'exp', 'trunc_exp'"),
    ({"near_far": "sphere"}, "near_far must be one of 'box', 'tsr_box'"),
    ({"near_far": (2.0, 1.0)}, "near_far must satisfy 0 <= near < far"),
    ({"near_far": (-1.0, 1.0)}, "near_far must satisfy 0 <= near < far"),
    ({"background": "grey"}, "background must be one of 'white', 'black'"),
    ({"axes": ("xy", "xz")}, "axes must be three pairs of distinct letters"),
    ({"axes": ("xx", "xz", "yz")}, "axes must be three pairs of distinct letters"),
    ({"axes": "xyz"}, "axes must be three pairs of distinct letters"),
    ({"radius": 0.0}, "radius must be positive and finite, got 0.0"),
    ({"radius": float("nan")}, "radius must be positive and finite"),
    ({"n_samples": 0}, "n_samples must be at least 1 for quadrature='bins', got 0"),
    (
        {"n_samples": 1, "quadrature": "midpoint"},
        "n_samples must be at least 2 for quadrature='midpoint', got 1",
    ),
    ({"n_importance": -1}, "n_importance must not be negative, got -1"),
    ({"n_importance": 4}, "n_importance > 0 needs quadrature='midpoint'"),
    (
        {"n_importance": 4, "quadrature": "midpoint", "n_samples": 3},
        "importance sampling needs n_samples of at least 4, got 3",
    ),
    ({"interval": "chord", "quadrature": "midpoint"}, "interval='chord' needs quadrature='bins'"),
    ({"depth_eps": -1e-3}, "depth_eps must be at least 0 and finite"),
    ({"density_scale": 0.0}, "density_scale must be positive and finite, got 0.0"),
    ({"rgb_range": (0,)}, "rgb_range must be a tuple of 2 numbers"),
    ({"background": 0.5}, "background must be a tuple of numbers, got 0.5"),
    ({"background": (2.0,)}, "background must lie in the unit range"),
    ({"near_far": (1,)}, "near_far must be a tuple of 2 numbers"),
    ({"near_far": (0, float("inf"))}, "near_far must satisfy"),
    ({"depth_kernel": (1, 2, 3)}, "depth_kernel must be a tuple of 4 numbers"),
    ({"early_stop": 1.0}, r"early_stop must lie in \[0, 1\), got 1.0"),
    ({"early_stop": -0.1}, r"early_stop must lie in \[0, 1\)"),
]


@pytest.mark.parametrize(("fields_", "message"), BAD, ids=[str(f) for f, _ in BAD])
def test_bad_settings_say_what_to_write(fields_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RenderSettings(**fields_)


# --- Decoder ------------------------------------------------------------------------------------


def test_decoder_keeps_the_very_tensors() -> None:
    weights = [torch.randn(5, 6, requires_grad=True), torch.randn(4, 5)]
    biases = [None, torch.randn(4, requires_grad=True)]
    decoder = Decoder(weights, biases, "relu")
    assert all(a is b for a, b in zip(decoder.weights, weights, strict=True))
    assert all(a is b for a, b in zip(decoder.biases, biases, strict=True))
    assert [id(p) for p in decoder.parameters] == [id(x) for x in (*weights, biases[1])]
    assert decoder.n_features == 6
    assert decoder.n_colours == 3


@pytest.mark.parametrize(
    ("act", "name"), [(nn.SiLU, "silu"), (nn.ReLU, "relu"), (nn.Softplus, "softplus")]
)
def test_from_mlp_keeps_the_very_parameters(act: type[nn.Module], name: str) -> None:
    mlp = nn.Sequential(nn.Linear(6, 8), act(), nn.Linear(8, 8, bias=False), act(), nn.Linear(8, 2))
    decoder = Decoder.from_mlp(mlp)
    assert decoder.activation == name
    assert all(w is mlp[i].weight for w, i in zip(decoder.weights, (0, 2, 4), strict=True))
    assert all(b is mlp[i].bias for b, i in zip(decoder.biases, (0, 2, 4), strict=True))
    assert decoder.biases[1] is None


def test_one_layer_is_a_decoder() -> None:
    linear = nn.Linear(6, 4)
    decoder = Decoder.from_mlp(nn.Sequential(linear))
    assert decoder.weights[0] is linear.weight


FOREIGN = [
    (
        nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)),
        "all activations must be the same, got relu, silu",
    ),
    (nn.Sequential(nn.Linear(3, 4), nn.SiLU()), "no trailing activation; got Linear, SiLU"),
    (nn.Sequential(), "from_mlp reads Linear, activation"),
    (
        nn.Sequential(nn.Linear(3, 4), nn.Softplus(beta=100), nn.Linear(4, 4)),
        "softplus must have beta=1 and threshold=20, got beta=100",
    ),
    (
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)),
        "activations must be SiLU, ReLU or Softplus, got Tanh",
    ),
    (nn.Sequential(nn.SiLU(), nn.Linear(3, 4), nn.SiLU()), "expected nn.Linear, got SiLU"),
]


@pytest.mark.parametrize(("mlp", "message"), FOREIGN, ids=[m for _, m in FOREIGN])
def test_from_mlp_refuses(mlp: nn.Sequential, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoder.from_mlp(mlp)


W = torch.zeros
BAD_DECODERS = [
    ([], [], "silu", "at least one layer, got none"),
    ([W(4, 3)], [None, None], "silu", "got 1 weights and 2 biases"),
    ([W(4, 3), W(4, 5)], [None] * 2, "silu", r"decoder weight 1 must be \(out, 4\), got \(4, 5\)"),
    ([W(4)], [None], "silu", r"decoder weight 0 must be \(out, in\), got \(4,\)"),
    ([W(4, 3)], [W(3)], "silu", r"decoder bias 0 must be \(4,\), got \(3,\)"),
    ([W(1, 3)], [None], "silu", r"must give 1 \+ K numbers \(density, colours\), got 1"),
    ([W(4, 3)], [None], "gelu", "activation must be one of 'silu', 'relu', 'softplus'"),
]


@pytest.mark.parametrize(
    ("weights", "biases", "activation", "message"), BAD_DECODERS, ids=[b[3] for b in BAD_DECODERS]
)
def test_bad_decoders(weights: list, biases: list, activation: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoder(weights, biases, activation)


def test_moving_a_decoder_stays_differentiable() -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    moved = Decoder([weight], [None]).to(torch.float64)
    moved.weights[0].sum().backward()
    assert moved.weights[0].dtype == torch.float64
    torch.testing.assert_close(weight.grad, torch.ones(4, 3))
