"""The baselines agree with `render_rays`, the workloads are what they say, the bench runs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fastrecon_kernels import render_rays
from torch import Tensor

from bench import memory, render_cpu
from bench.baselines.triposr import render_triposr
from bench.workloads import WORKLOADS, A, B, Inputs


def small(**options) -> Inputs:
    """Workload A with less of everything, in fp64, and one ray in three past the object."""
    workload = replace(A, plane_side=8, channels=4, hidden=(8, 8))
    x = workload.inputs(views=2, image_side=4, requires_grad=True, **options)
    x.mlp.double()
    planes = x.planes.detach().double().requires_grad_()
    rays_d = x.rays_d.double()
    rays_d[:, ::3] *= -1
    settings = replace(x.settings, n_samples=9)
    return Inputs(planes, (planes,), x.mlp, x.rays_o.double(), rays_d, settings)


def test_triposr_baseline_is_render_rays_with_its_preset() -> None:
    x = small()
    rgb, opacity = render_triposr(x.planes, x.mlp, x.rays_o, x.rays_d, n_samples=9)
    ours = render_rays(x.planes, x.decoder, x.rays_o, x.rays_d, x.settings, backend="reference")
    torch.testing.assert_close(rgb, ours.rgb, rtol=0, atol=1e-8)
    torch.testing.assert_close(opacity, ours.opacity, rtol=0, atol=1e-8)
    assert 0 < int((opacity == 0).sum()) < opacity.numel()
    assert bool((opacity > 0.2).any())
    cotangent = torch.randn(rgb.shape, dtype=rgb.dtype, generator=torch.Generator().manual_seed(0))
    leaves = [x.planes, *x.mlp.parameters()]

    def gradients(picture: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(picture, leaves, cotangent)

    for mine, theirs in zip(gradients(ours.rgb), gradients(rgb), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_triposr_baseline_when_every_ray_misses() -> None:
    x = small()
    rgb, opacity = render_triposr(x.planes, x.mlp, 9 + x.rays_o, x.rays_d.abs(), n_samples=9)
    assert bool((rgb == 1).all())
    assert bool((opacity == 0).all())


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_workloads_are_as_documented(name: str) -> None:
    x = WORKLOADS[name].inputs(views=2)
    assert x.rays_o.shape == x.rays_d.shape == (2, 16384, 3)
    torch.testing.assert_close(x.rays_d.norm(dim=-1), torch.ones(2, 16384))
    decoder = x.decoder
    if name == "A":
        assert x.n_samples * 4 == 16_777_216  # of 8 views
        assert [tuple(level.shape) for level in x.levels] == [(2, 3, 40, 64, 64)]
        assert [w.shape[1] for w in decoder.weights] == [120, *[64] * 9]
        assert decoder.activation == "silu"
        macs = sum(w.numel() for w in decoder.weights)
        assert 40_600 < macs < 40_800
    else:
        assert x.n_samples * 4 == 8_388_608
        assert [level.shape[-1] for level in x.levels] == [128, 64, 32]
        assert [tuple(w.shape) for w in decoder.weights] == [(64, 64), (4, 64)]
        assert decoder.activation == "softplus"


def test_workload_inputs_are_seeded_and_leave_the_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, two = (B.inputs(views=1, image_side=2) for _ in range(2))
    assert torch.equal(one.planes, two.planes)
    assert torch.equal(one.decoder.weights[0], two.decoder.weights[0])
    assert not torch.equal(one.planes, B.inputs(views=1, image_side=2, seed=1).planes)
    assert torch.equal(state, torch.get_rng_state())


def test_workload_fields_vary() -> None:
    """A field of one colour would hide errors from the parity check."""
    for workload in WORKLOADS.values():
        x = workload.inputs(views=1, image_side=6)
        with torch.no_grad():
            r = render_rays(x.levels, x.decoder, x.rays_o, x.rays_d, x.settings, seed=0)
        assert float(r.rgb.std()) > 0.02
        assert float(r.opacity.mean()) > 0.2


def test_render_cpu_prints_a_table_and_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "result.json"
    threads = str(torch.get_num_threads())
    argv = ["--image-side", "4", "--repeats", "2", "--no-memory", "--threads", threads]
    assert render_cpu.main([*argv, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert json.loads(printed[printed.index("{") :]) == result
    assert set(result["rows"]) == set(render_cpu.RENDERERS)
    assert {"cpu", "threads", "torch", "commit"} <= set(result["conditions"])
    for name, row in result["rows"].items():
        assert name in printed
        assert row["parity"]
        assert 0 < row["p20_s"] <= row["p50_s"] <= row["p80_s"]


def test_a_wrong_renderer_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(render_cpu.RENDERERS, "wrong", (lambda x: 0 * x.rays_o, 1e-3))
    threads = str(torch.get_num_threads())
    argv = ["--image-side", "4", "--repeats", "1", "--no-memory", "--threads", threads]
    assert render_cpu.main(argv) == 1
    assert "parity failed, not timed" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peak_growth_sees_what_was_freed_again() -> None:
    grown = memory.peak_growth(lambda: torch.ones(64 << 18).sum())
    assert 60 << 20 < grown < 80 << 20
