"""The Triton paths as operators of PyTorch: schemas, fake tensors, autograd, no waiting."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from fastrecon_kernels import RenderSettings, query_points, render_rays
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("triton", reason="the kernels need Triton")

from fastrecon_kernels.common import lookup_operator
from fastrecon_kernels.common.random import seed_tensor
from fastrecon_kernels.common.settings_arguments import pack_settings, unpack_settings
from fastrecon_kernels.composite import operator as composite_operator
from fastrecon_kernels.render import operators as render_operators
from fastrecon_kernels.render.field_arguments import field_arguments as pack_field

from tests.kernels.operator_calls import BINS, CALLS, FINE, Inputs, tensors, total


def detach(arguments: Any) -> Any:
    """Arguments without a graph, as the operators of a backward pass get them."""
    if isinstance(arguments, Tensor):
        return arguments.detach()
    if isinstance(arguments, list | tuple):
        return [detach(x) for x in arguments]
    return arguments


def field_arguments(x: Inputs, settings: RenderSettings, precision: str) -> tuple[Any, ...]:
    return pack_field(tuple(x.levels), x.decoder, settings, precision, False)


def operator_arguments(x: Inputs) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Every operator with arguments that reach all of its results."""
    lookup = (x.points, x.levels, "xy,xz,yz", "mean")
    features = lookup_operator.lookup(*lookup)
    numbers = pack_settings(BINS, 3)
    records = (x.raw[0], x.rgbs[0], x.ts[0], None, x.prior[0])
    pixels = composite_operator.forward(*records, *numbers, True)
    seed = torch.tensor(3, device=x.points.device)
    rays = (x.rays_o, x.rays_d, None, x.prior, None, seed)
    fine = (*rays, *field_arguments(x, FINE, "fp32"))
    rendered = render_operators.render(*fine, True, 0)
    cells = torch.ones(2, 2, 2, 2, dtype=torch.bool, device=x.points.device)
    bins = (*rays[:4], cells, None, *field_arguments(x, BINS, "tf32"))
    query = (x.points, *field_arguments(x, BINS, "tf32"))
    found = render_operators.query(*query)
    grads = [rendered[0], None, rendered[2], rendered[3]]
    rays_again = (*rays[:2], rendered[-1], *rays[3:])
    back = (grads, *rendered[1:3], *rays_again, *fine[6:], [True, True, True], 1)
    return {
        "lookup": (lookup_operator.lookup, lookup),
        "lookup_backward": (lookup_operator.lookup_backward, (features, *lookup, True, True)),
        "composite": (composite_operator.forward, (*records, *numbers, True)),
        "composite_backward": (
            composite_operator.backward,
            ([*pixels[:3], None], *records, *pixels[1:3], *numbers),
        ),
        "render_rays": (render_operators.render, (*bins, False, 0)),
        "render_rays, fine": (render_operators.render, (*fine, True, 0)),
        "render_rays_backward": (render_operators.render_backward, back),
        "query_points": (render_operators.query, query),
        "query_points_backward": (
            render_operators.query_backward,
            (*found, *query, [True, True, True]),
        ),
    }


OPERATORS = (
    "lookup",
    "lookup_backward",
    "composite",
    "composite_backward",
    "render_rays",
    "render_rays, fine",
    "render_rays_backward",
    "query_points",
    "query_points_backward",
)


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, device: torch.device) -> None:
    operator, arguments = operator_arguments(Inputs(device, n_rays=2))[name]
    if "backward" in name:
        arguments = detach(arguments)
    torch.library.opcheck(operator, tuple(arguments))


def test_opcheck_of_layers_that_do_not_fit_the_kernels(device: torch.device) -> None:
    x = Inputs(device, n_rays=2, hidden=65)
    for name in ("render_rays, fine", "render_rays_backward", "query_points"):
        operator, arguments = operator_arguments(x)[name]
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(operator, tuple(detach(arguments)), test_utils=checks)


@pytest.mark.parametrize("name", ["render_rays", "query_points"])
def test_second_derivatives_are_refused(name: str, device: torch.device) -> None:
    x = Inputs(device, n_rays=1)
    weight = x.weights[0]
    loss = total(CALLS[name](x, "triton"))
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    "settings",
    [
        BINS,
        FINE,
        RenderSettings.triposr(background=(0.1, 0.2, 0.3)),
        RenderSettings.eg3d(early_stop=0.5),
        RenderSettings(radius=2, rgb_padding=0.25, outside="empty", density_scale=3.5),
    ],
)
def test_settings_survive_the_schema(settings: RenderSettings) -> None:
    got = unpack_settings(*pack_settings(settings, 3))
    for name in RenderSettings.__dataclass_fields__:
        if name != "background":
            assert getattr(got, name) == getattr(settings, name), name
    assert got.background_colour(3) == settings.background_colour(3)


# --- nothing waits for the device ---------------------------------------------------------------


LAUNCHES = {
    "lookup": lookup_operator._forward,
    "lookup_backward": lookup_operator._backward,
    "composite": composite_operator._forward,
    "composite_backward": composite_operator._backward,
    "render_rays": render_operators._render,
    "render_rays_backward": render_operators._render_backward,
    "query_points": render_operators._query,
    "query_points_backward": render_operators._query_backward,
}


class NoWaiting(TorchDispatchMode):
    """Fails on whatever reads a value back, or brings one from the host; looks into operators."""

    READS = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "masked_select")
    HOST_DATA = ("lift_fresh", "lift_fresh_copy")  # torch.tensor(numbers)

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen.add(name)
        if func.namespace == "fastrecon_kernels":
            with self:
                return LAUNCHES[name](*args)
        assert name not in self.READS, f"{func} waits for the device"
        assert name not in self.HOST_DATA, f"{func} copies from the host"
        if name in ("index", "index_put", "index_put_"):
            assert all(m is None or m.dtype != torch.bool for m in args[1]), f"{func} by a mask"
        out = func(*args, **(kwargs or {}))
        devices = {x.device for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)}
        assert len(devices) <= 1, f"{func} copies between {devices}"
        return out


@pytest.mark.parametrize("hidden", [8, 130])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_waits(name: str, hidden: int, device: torch.device) -> None:
    """After a first call, which fills the caches of small tables."""
    x = Inputs(device, n_rays=2, hidden=hidden)
    total(CALLS[name](x, "triton"))
    with NoWaiting() as mode:
        loss = total(CALLS[name](x, "triton"))
        torch.autograd.grad(loss, x.leaves(), allow_unused=True)
    assert len(mode.seen & set(LAUNCHES)) == 2, "the operator and its backward pass"


def test_seeds_are_made_on_the_device() -> None:
    given = torch.tensor(3)
    with NoWaiting():
        for seed in (None, 3, given):
            assert seed_tensor(seed, torch.device("cpu")).dtype == torch.int64


# --- autocast and any number of rays ------------------------------------------------------------


def test_autocast_leaves_sampling_and_compositing_in_fp32(device: torch.device) -> None:
    x = Inputs(device)
    for name in ("sample_triplane", "sample_multires", "composite"):
        expected = tensors(CALLS[name](x, "triton"))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            got = tensors(CALLS[name](x, "triton"))
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == torch.float32
            assert torch.equal(a, b), name


@pytest.mark.parametrize("hidden", [8, 130])
def test_autocast_is_bf16_forward_and_backward(hidden: int, device: torch.device) -> None:
    """Also where the backward pass runs under autocast, or outside of it."""
    x = Inputs(device, hidden=hidden)
    planes, decoder, settings = x.levels[0], x.decoder, BINS
    rays = (x.rays_o, x.rays_d)

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, x.weights[0])[0]

    half = render_rays(planes, decoder, *rays, settings, precision="bf16", backend="triton")
    expected = gradient(half.rgb.sum())
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = render_rays(planes, decoder, *rays, settings, backend="triton")
        within = gradient(render_rays(planes, decoder, *rays, settings, backend="triton").rgb.sum())
        sigmas, _ = query_points(planes, decoder, x.points, settings, backend="triton")
    assert got.rgb.dtype == sigmas.dtype == torch.float32
    assert torch.equal(got.rgb, half.rgb)
    for name, other in {"outside": gradient(got.rgb.sum()), "within": within}.items():
        torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-5, msg=name)


COUNTS = """
import triton
from fastrecon_kernels.common import lookup_kernel as lookup
from fastrecon_kernels.composite import kernel as composite
from fastrecon_kernels.render import importance_kernel as importance
from fastrecon_kernels.render import kernel as field
from fastrecon_kernels.render import kernel_backward as backward
counts = {"n_points", "n_rays", "n_samples", "samples_per_ray", "first_ray", "rays_per_object"}
counts.add("n_slots")
seen = 0
for module in (lookup, composite, field, backward, importance):
    for name, kernel in vars(module).items():
        launched = name.endswith("kernel") or name.startswith("lookup_")
        if launched and isinstance(kernel, triton.JITFunction):
            named = [p for p in kernel.params if p.name in counts and not p.is_constexpr]
            if "composite" in name:  # samples per ray are settings there
                named = [p for p in named if p.name != "n_samples"]
            for p in named:
                assert p.do_not_specialize, (name, p.name)
            seen += len(named)
assert seen > 8, seen
"""


def test_no_kernel_is_specialised_for_a_count_of_rays() -> None:
    """Triton compiles again for integers that are 1 or divisible by 16, unless told not to."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", COUNTS], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
