"""CUDA graphs hold every operator, forward and backward, and replay it on new values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastrecon_kernels import sample_rays
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need Triton")

from tests.kernels.operator_calls import BINS, CALLS, FINE, Inputs, tensors, total

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="CUDA graphs need a GPU; test_operators.py has the rest"
)


def capture(run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Record ``run`` after warm-up on a side stream, as PyTorch asks."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph, results


def change(x: Inputs) -> None:
    """New values in place, as a training step makes them."""
    with torch.no_grad():
        for leaf in x.leaves():
            leaf.mul_(0.9).add_(0.01)


def assert_close(got: list[Tensor], expected: list[Tensor]) -> None:
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3, msg=lambda m, n=i: f"{n}: {m}")


@pytest.mark.parametrize("hidden", [8, 130])
@pytest.mark.parametrize("name", CALLS)
def test_forward(name: str, hidden: int, device: torch.device) -> None:
    x = Inputs(device, n_rays=65, hidden=hidden)

    def run() -> list[Tensor]:
        with torch.no_grad():
            return tensors(CALLS[name](x, "triton"))

    graph, results = capture(run)
    change(x)
    graph.replay()
    assert_close(results, run())


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("hidden", [8, 130])
@pytest.mark.parametrize("name", CALLS)
def test_forward_and_backward(
    name: str, hidden: int, deterministic: bool, device: torch.device
) -> None:
    x = Inputs(device, n_rays=65, hidden=hidden)

    def run() -> list[Tensor]:
        loss = total(CALLS[name](x, "triton"))
        gradients = torch.autograd.grad(loss, x.leaves(), allow_unused=True)
        return [loss, *(g for g in gradients if g is not None)]

    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        graph, results = capture(run)
        change(x)
        graph.replay()
        assert_close(results, run())
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_replay_draws_a_new_seed(device: torch.device) -> None:
    x = Inputs(device, n_rays=5)
    graph, (ts, _) = capture(lambda: sample_rays(x.rays_o, x.rays_d, FINE))
    graph.replay()
    first = ts.clone()
    graph.replay()
    assert not torch.equal(ts, first)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_synchronises(name: str, device: torch.device) -> None:
    """CUDA itself says so: forward, backward, after a first call."""
    x = Inputs(device, n_rays=65)

    def run() -> None:
        torch.autograd.grad(total(CALLS[name](x, "triton")), x.leaves(), allow_unused=True)

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CALLS)
def test_other_streams(name: str, device: torch.device) -> None:
    x = Inputs(device, n_rays=65)
    expected = tensors(CALLS[name](x, "triton"))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        got = tensors(CALLS[name](x, "triton"))
    torch.cuda.current_stream().wait_stream(side)
    assert_close(got, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", CALLS)
def test_tensors_of_another_device_than_the_current_one(name: str) -> None:
    gradients = []
    for device in (torch.device("cuda", 0), torch.device("cuda", 1)):
        x = Inputs(device, n_rays=9)
        found = torch.autograd.grad(total(CALLS[name](x, "triton")), x.leaves(), allow_unused=True)
        gradients.append([g.cpu() for g in found if g is not None])
    assert_close(gradients[1], gradients[0])


def test_any_number_of_rays_runs_the_same_binaries(device: torch.device) -> None:
    """Ray counts that are 1, odd or divisible by 16 share what Triton compiled."""
    from fastrecon_kernels.composite import kernel as composite_kernel
    from fastrecon_kernels.render import kernel, kernel_backward, kernel_fold, kernel_taps
    from fastrecon_kernels.render import kernel_windows as windows

    kernels = [
        *(kernel.field_kernel, kernel_backward.group_backward_kernel),
        *(windows.window_backward_kernel, kernel_taps.tap_backward_kernel),
        *(kernel_taps.point_backward_kernel, kernel_fold.fold_backward_kernel),
        composite_kernel.composite_forward_kernel,
        composite_kernel.composite_backward_kernel,
    ]

    def variants() -> list[int]:
        index = torch.cuda.current_device()
        return [len(k.device_caches[index][0]) for k in kernels]

    counts = []
    for n_rays in (7, 1, 16, 33, 256):
        x = Inputs(device, n_rays)
        loss = total(CALLS["render_rays"](x, "triton"))
        torch.autograd.grad(loss, x.leaves(), allow_unused=True)
        counts.append(variants())
    assert all(count == counts[0] for count in counts), counts
    assert BINS.n_samples % 16, "the settings would be specialised as well"
