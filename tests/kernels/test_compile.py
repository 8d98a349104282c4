"""`torch.compile(fullgraph=True)` of functions that call the public ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fastrecon_kernels import Decoder, RenderSettings, render_rays, sample_rays
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need Triton")

from tests.kernels.operator_calls import BINS, CALLS, FINE, Inputs, tensors, total


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


class Counter:
    """A compiler backend that counts graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


IMPORTANCE = "render_rays with importance sampling"


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "triton") for name in CALLS),
        *((name, "reference") for name in CALLS if name != IMPORTANCE),
        # Every operation of the reference becomes a node, and again in each recomputed chunk.
        pytest.param(IMPORTANCE, "reference", marks=pytest.mark.slow),
    ],
)
def test_forward_and_backward_are_one_graph(name: str, backend: str, device: torch.device) -> None:
    x = Inputs(device, n_rays=2)

    def loss() -> Tensor:
        return total(CALLS[name](x, backend))

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(), x.leaves(), allow_unused=True)
    got = torch.autograd.grad(compiled(), x.leaves(), allow_unused=True)
    assert sum(g is not None for g in expected) >= 2
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert (a is None or not a.any()) if b is None else a is not None, i
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=f"leaf {i}")


def test_other_counts_of_rays_do_not_compile_again(device: torch.device) -> None:
    """The second count makes the graph a general one; equal settings are the same settings."""
    counter = Counter()
    decoder = Inputs(device).decoder

    def render(planes: Tensor, rays_o: Tensor, rays_d: Tensor, settings: RenderSettings) -> Tensor:
        return render_rays(planes, decoder, rays_o, rays_d, settings, backend="triton").rgb

    compiled = torch.compile(render, fullgraph=True, backend=counter)
    for n_rays in (2, 3, 4, 7, 16):
        x = Inputs(device, n_rays)
        arguments = (x.levels[0], x.rays_o, x.rays_d, replace(BINS))
        torch.testing.assert_close(compiled(*arguments), render(*arguments))
    assert counter.graphs <= 2


def test_other_settings_compile_and_are_obeyed(device: torch.device) -> None:
    x = Inputs(device, n_rays=2)

    def render(settings: RenderSettings) -> Any:
        return render_rays(
            x.levels[0],
            x.decoder,
            x.rays_o,
            x.rays_d,
            settings,
            per_sample=True,
            seed=2,
            backend="triton",
        )

    compiled = torch.compile(render, fullgraph=True, backend="aot_eager")
    for settings in (
        BINS,
        replace(BINS, n_samples=6, radius=1.5),
        replace(BINS, n_samples=7, radius=1.25, background=(0.1, 0.5, 0.2)),
        replace(FINE, near_far=(1.0, 3.0)),
        replace(FINE, near_far=(1.5, 2.5), n_importance=2),
    ):
        for a, b in zip(tensors(compiled(settings)), tensors(render(settings)), strict=True):
            torch.testing.assert_close(a, b)


def test_settings_and_decoder_made_inside(device: torch.device) -> None:
    x = Inputs(device, n_rays=2)

    def render(scale: float) -> Tensor:
        decoder = Decoder([w * scale for w in x.weights], x.biases)
        settings = RenderSettings.g3dr(n_samples=4, n_importance=0, reduction="concat")
        settings = replace(settings, stratified=False, density_shift=1.0)
        arguments = (x.levels[0], decoder, x.rays_o, x.rays_d, settings)
        return render_rays(*arguments, backend="triton").rgb

    compiled = torch.compile(render, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(0.5), render(0.5))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_seed_of_none_follows_the_generator(backend: str, device: torch.device) -> None:
    x = Inputs(device, n_rays=2)

    def place() -> tuple[Tensor, Tensor]:
        ts, _ = sample_rays(x.rays_o, x.rays_d, FINE)
        rendering = render_rays(
            x.levels[0], x.decoder, x.rays_o, x.rays_d, FINE, per_sample=True, backend="triton"
        )
        assert rendering.samples is not None
        return ts, rendering.samples.ts

    compiled = torch.compile(place, fullgraph=True, backend=backend)
    results = []
    for call in (compiled, compiled, place):
        torch.manual_seed(4)
        results.append(call())
    for first, second, eager in zip(*results, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, eager)
    assert not torch.equal(compiled()[0], results[0][0])
