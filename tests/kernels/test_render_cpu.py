"""The fast CPU path against the reference: every output and every gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fastrecon_kernels import Decoder, RenderSettings, query_points, render_rays
from torch import Tensor, nn

SETTINGS = {
    "triposr": RenderSettings.triposr(n_samples=7),
    "g3dr": RenderSettings.g3dr(n_samples=6, n_importance=5),
    "openlrm": RenderSettings.openlrm(n_samples=6, n_importance=5),
    "sum": RenderSettings(n_samples=6, reduction="sum", axes=("xz", "yx", "zy")),
}


def scene(settings: RenderSettings, n_levels: int) -> tuple[list[Tensor], nn.Sequential, Tensor]:
    """Levels of odd sizes, a decoder, and rays (2, 2, 3, 6) of which some leave or miss the box."""
    torch.manual_seed(0)
    channels = 5
    width = 3 * channels if settings.reduction == "concat" else channels
    levels = [
        torch.randn(2, 3, channels, 7 - k, 6 + k, requires_grad=True) for k in range(n_levels)
    ]
    decoder = nn.Sequential(nn.Linear(width, 8), nn.Softplus(), nn.Linear(8, 4))
    rays = torch.randn(2, 2, 3, 6) * 0.25 + torch.tensor([2.0, 0, 0, -1.0, 0, 0])
    rays[0, 0, 0, 3:] = torch.tensor([0.0, 1.0, 0.0])  # passes beside the box
    return levels, decoder, rays.requires_grad_()


@pytest.mark.parametrize("skip", [False, True], ids=["everywhere", "occupancy"])
@pytest.mark.parametrize("n_levels", [1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_equals_reference(name: str, n_levels: int, skip: bool) -> None:
    settings = SETTINGS[name]
    levels, decoder, rays = scene(settings, n_levels)
    prior = torch.full(rays.shape[:-1], 1.7)
    prior[0] = torch.nan
    occupancy = torch.rand(2, 4, 4, 4) < 0.6 if skip else None
    inputs = {"levels[0]": levels[0], "rays": rays, **dict(decoder.named_parameters())}
    found: dict[str, dict[str, Tensor]] = {}
    for backend in ("auto", "reference"):
        rendering = render_rays(
            levels,
            Decoder.from_mlp(decoder),
            rays[..., :3],
            rays[..., 3:],
            settings,
            seed=3,
            depth_prior=prior,
            occupancy=occupancy,
            per_sample=True,
            backend=backend,
        )
        assert rendering.samples is not None
        outputs = {
            "rgb": rendering.rgb,
            "opacity": rendering.opacity,
            "depth": rendering.depth,
            "weights": rendering.samples.weights,
        }
        torch.manual_seed(1)
        loss = torch.stack([(x * torch.randn_like(x)).sum() for x in outputs.values()]).sum()
        gradients = torch.autograd.grad(loss, list(inputs.values()))
        found[backend] = {
            **outputs,
            **{f"d {name}": g for name, g in zip(inputs, gradients, strict=True)},
        }
    for key, expected in found["reference"].items():
        torch.testing.assert_close(
            found["auto"][key], expected, atol=2e-5, rtol=2e-4, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_points_far_outside_and_not_a_number_read_the_zero_border() -> None:
    settings = SETTINGS["sum"]
    levels, decoder, _ = scene(settings, 1)
    points = torch.tensor([[[1e30, 0, 0], [torch.nan, 9, 9], [5, 5, 5], [torch.inf, 0.1, 8]]])
    points = points.expand(2, -1, -1)
    kwargs = {"settings": settings, "raw": True}
    for fast, slow in zip(
        query_points(levels, Decoder.from_mlp(decoder), points, **kwargs),
        query_points(levels, Decoder.from_mlp(decoder), points, backend="reference", **kwargs),
        strict=True,
    ):
        torch.testing.assert_close(fast, slow)


def test_can_be_differentiated_twice() -> None:
    settings = replace(SETTINGS["triposr"], radius=1.0)
    levels, decoder, rays = scene(settings, 1)
    second = []
    for backend in ("auto", "reference"):
        rendering = render_rays(
            levels,
            Decoder.from_mlp(decoder),
            rays[..., :3],
            rays[..., 3:],
            settings,
            backend=backend,
        )
        (first,) = torch.autograd.grad(rendering.rgb.square().sum(), rays, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), levels[0])[0])
    assert second[1].abs().max() > 0
    torch.testing.assert_close(second[0], second[1], atol=1e-4, rtol=1e-3)


def test_bf16_products_stay_close() -> None:
    settings = SETTINGS["triposr"]
    levels, decoder, rays = scene(settings, 1)
    o, d = rays[..., :3], rays[..., 3:]
    exact = render_rays(levels, Decoder.from_mlp(decoder), o, d, settings).rgb
    half = render_rays(levels, Decoder.from_mlp(decoder), o, d, settings, precision="bf16").rgb
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    mse = (half - exact).square().mean()
    assert -10 * torch.log10(mse) > 45


def test_rays_of_an_empty_object_have_gradients_of_zero() -> None:
    levels, decoder, rays = scene(SETTINGS["sum"], 1)
    nothing = torch.zeros(2, 3, 3, 3, dtype=torch.bool)
    o, d = rays[..., :3], rays[..., 3:]
    rendering = render_rays(
        levels, Decoder.from_mlp(decoder), o, d, SETTINGS["sum"], occupancy=nothing
    )
    torch.testing.assert_close(rendering.rgb, torch.ones_like(rendering.rgb))
    (gradient,) = torch.autograd.grad(rendering.rgb.sum(), rays)
    assert not gradient.any()


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 5, 3)], ids=["no rays", "no objects"])
@pytest.mark.parametrize("backend", ["auto", "reference", "triton"])
@pytest.mark.parametrize("name", ["triposr", "g3dr"])
def test_nothing_can_be_rendered_and_differentiated(
    name: str, backend: str, shape: tuple[int, int, int], device: torch.device
) -> None:
    levels, decoder, _ = scene(SETTINGS[name], 1)
    planes = levels[0][: shape[0]].to(device)
    rays = torch.zeros(shape, device=device, requires_grad=True)
    network = Decoder.from_mlp(decoder.to(device))
    rendering = render_rays(planes, network, rays, rays, SETTINGS[name], backend=backend)
    assert rendering.rgb.shape == shape
    sigmas, _ = query_points(planes, network, rays, SETTINGS[name], backend=backend)
    assert sigmas.shape == shape[:2]
    (rendering.rgb.sum() + sigmas.sum()).backward()
    assert rays.grad is not None
    assert rays.grad.shape == shape
