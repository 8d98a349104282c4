"""Every refusal of `render_rays`, `query_points` and the choice of backend, by its words."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from fastrecon_kernels import (
    Decoder,
    RenderSettings,
    composite,
    query_points,
    render_rays,
    sample_rays,
)
from fastrecon_kernels.common import backend as backends

SETTINGS = RenderSettings(n_samples=4)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


GOOD: dict[str, Any] = {
    "planes": zeros(2, 3, 2, 4, 4),
    "decoder": Decoder([zeros(4, 6)], [None]),
    "rays_o": zeros(2, 5, 3),
    "rays_d": zeros(2, 5, 3),
    "settings": SETTINGS,
}

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"planes": zeros(3, 2, 4, 4)},
        ValueError,
        "must be (B, 3, C, H, W), got (3, 2, 4, 4); add a batch dimension with",
    ),
    ({"planes": zeros(2, 4, 2, 4, 4)}, ValueError, "must be (B, 3, C, H, W), got (2, 4, 2, 4, 4)"),
    ({"planes": zeros(2, 3, 2, 0, 4)}, ValueError, "must have channels and texels"),
    ({"planes": zeros(2, 3, 2, 4, 4, dtype=torch.int32)}, TypeError, "must be floating point"),
    ({"planes": 1}, TypeError, "levels must be a sequence of planes"),
    ({"planes": []}, ValueError, "must hold at least one (B, 3, C, H, W) tensor, got none"),
    ({"planes": [1]}, TypeError, "levels[0] must be a torch.Tensor, got int"),
    (
        {"planes": [zeros(2, 3, 2, 4, 4), zeros(2, 3, 1, 2, 2)]},
        ValueError,
        "all levels must agree in batch, channels and dtype",
    ),
    (
        {"planes": [zeros(2, 3, 2, 4, 4), zeros(2, 3, 2, 2, 2, dtype=torch.float64)]},
        ValueError,
        "all levels must agree in batch, channels and dtype",
    ),
    ({"decoder": None}, TypeError, "Decoder.from_mlp(mlp) reads an nn.Sequential"),
    (
        {"decoder": Decoder([zeros(4, 6, dtype=torch.int64)], [None])},
        TypeError,
        "decoder tensor 0 must be floating point, got torch.int64",
    ),
    (
        {"decoder": Decoder([zeros(4, 2)], [None])},
        ValueError,
        "planes with 2 channels under reduction='concat' give 6 features, but the decoder reads 2",
    ),
    (
        {"settings": RenderSettings(reduction="sum")},
        ValueError,
        "under reduction='sum' give 2 features, but the decoder reads 6",
    ),
    (
        {"settings": RenderSettings(background=(1.0,))},
        ValueError,
        "background has 1 numbers but the decoder gives 3 colours",
    ),
    ({"precision": "fp16"}, ValueError, "precision must be one of 'auto', 'bf16', 'tf32', 'fp32'"),
    ({"backend": "cuda"}, ValueError, "backend must be one of 'auto', 'triton', 'reference'"),
    ({"rays_o": zeros(2, 5, 2)}, ValueError, "rays_o must be (B, ..., 3), got (2, 5, 2)"),
    ({"rays_o": zeros(3)}, ValueError, "rays_o must be (B, ..., 3), got (3,)"),
    ({"rays_o": [0.0]}, TypeError, "rays_o must be a torch.Tensor, got list"),
    (
        {"rays_d": zeros(2, 4, 3)},
        ValueError,
        "rays_d must have the shape of rays_o (2, 5, 3), got (2, 4, 3)",
    ),
    (
        {"rays_d": zeros(2, 5, 3, dtype=torch.int64)},
        TypeError,
        "rays_d must be floating point, got torch.int64; convert it with rays_d.float()",
    ),
    (
        {"rays_o": zeros(1, 5, 3), "rays_d": zeros(1, 5, 3)},
        ValueError,
        "rays_o must have the planes' batch size 2, got (1, 5, 3)",
    ),
    ({"ts": zeros(2, 4, 6)}, ValueError, "ts must be (B, ..., S) = (2, 5, 'S'), got (2, 4, 6)"),
    ({"ts": zeros(2, 5, 1)}, ValueError, "ts needs at least 2 samples per ray, got 1"),
    ({"ts": [1.0, 2.0]}, TypeError, "ts must be a torch.Tensor, got list"),
    (
        {"depth_prior": zeros(2, 5, 1)},
        ValueError,
        "depth_prior must be (B, ...) = (2, 5), got (2, 5, 1)",
    ),
    ({"depth_prior": 4.0}, TypeError, "depth_prior must be a torch.Tensor, got float"),
    (
        {"occupancy": zeros(2, 4, 4, 4)},
        ValueError,
        "occupancy must be (2, R, R, R) bool, got (2, 4, 4, 4) torch.float32",
    ),
    (
        {"occupancy": zeros(2, 4, 4, 3, dtype=torch.bool)},
        ValueError,
        "occupancy must be (2, R, R, R) bool",
    ),
    (
        {"occupancy": zeros(1, 4, 4, 4, dtype=torch.bool)},
        ValueError,
        "occupancy must be (2, R, R, R) bool",
    ),
]


@pytest.mark.parametrize(
    ("change", "error", "message"), BAD, ids=[f"{', '.join(c)}: {m[:40]}" for c, _, m in BAD]
)
def test_render_rays_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        render_rays(**{**GOOD, **change})


@pytest.mark.parametrize("name", ["planes", "rays_d", "ts", "depth_prior", "occupancy", "decoder"])
def test_all_tensors_must_be_on_one_device(name: str) -> None:
    there = {
        **GOOD,
        "ts": zeros(2, 5, 3),
        "depth_prior": zeros(2, 5),
        "occupancy": zeros(2, 4, 4, 4, dtype=torch.bool),
    }
    moved = there[name].to("meta")
    with pytest.raises(ValueError, match=r"all tensors must be on one device, got .* on meta"):
        render_rays(**{**there, name: moved})


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        (zeros(2, 5, 2), ValueError, "points must be (B, ..., 3), got (2, 5, 2)"),
        (zeros(3, 5, 3), ValueError, "points must have the planes' batch size 2, got (3, 5, 3)"),
        (zeros(2, 5, 3, dtype=torch.int32), TypeError, "points must be floating point"),
        (None, TypeError, "points must be a torch.Tensor, got NoneType"),
    ],
)
def test_query_points_refuses(points: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        query_points(GOOD["planes"], GOOD["decoder"], points, SETTINGS)


def test_sample_rays_refuses() -> None:
    with pytest.raises(ValueError, match=r"rays_d must have the shape of rays_o \(2, 5, 3\)"):
        sample_rays(zeros(2, 5, 3), zeros(2, 5), SETTINGS)
    with pytest.raises(ValueError, match=r"rays_o must be \(B, ..., 3\), got \(2, 5, 4\)"):
        sample_rays(zeros(2, 5, 4), zeros(2, 5, 4), SETTINGS)


def test_triton_on_cpu_tensors_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="needs CUDA tensors, got cpu; move the inputs"):
        render_rays(**GOOD, backend="triton")


def test_triton_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "triton_installed", lambda: False)
    with pytest.raises(RuntimeError, match="needs the triton package; `pip install triton`"):
        render_rays(**GOOD, backend="triton")
    assert render_rays(**GOOD).rgb.shape == (2, 5, 3)


def test_explicit_triton_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "triton_installed", lambda: True)
    cuda = torch.device("cuda")
    with pytest.raises(ValueError, match="backend='triton' cannot serve this call: too wide"):
        backends.use_triton("triton", cuda, "too wide")
    assert not backends.use_triton("auto", cuda, "too wide")
    assert backends.use_triton("auto", cuda)
    assert not backends.use_triton("reference", cuda)
    assert not backends.use_triton("auto", torch.device("cpu"))


@pytest.mark.parametrize("settings", [{}, None])
def test_settings_of_another_type(settings: Any) -> None:
    ones = torch.ones(1, 2, 3)
    for call in (
        lambda: sample_rays(ones, ones, settings),
        lambda: composite(ones[..., 0], ones, ones[..., 0], settings),
    ):
        with pytest.raises(TypeError, match="settings must be RenderSettings, got"):
            call()


def test_a_decoder_on_two_devices() -> None:
    decoder = Decoder([torch.ones(4, 6), torch.ones(4, 4, device="meta")], [None, None])
    rays = torch.ones(1, 1, 3)
    with pytest.raises(ValueError, match=r"all tensors must be on one device, got .*meta"):
        render_rays(torch.ones(1, 3, 2, 2, 2), decoder, rays, rays, RenderSettings())


def test_a_decoder_without_tensors() -> None:
    with pytest.raises(TypeError, match="decoder layer 0 must hold torch tensors"):
        Decoder([1], [None])  # type: ignore[list-item]
