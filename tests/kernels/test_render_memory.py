"""Training memory of `render_rays` is that of one chunk of rays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

GROWTH = """
import torch
from bench.memory import peak_growth
from fastrecon_kernels import Decoder, RenderSettings, render_rays
from fastrecon_kernels.render import reference
from fastrecon_kernels.render.cpu import rendering
reference.CHUNK_SAMPLES = 2048
rendering.KEPT_BYTES = 8 << 20
torch.set_num_threads(1)
planes = torch.randn(1, 3, 8, 16, 16, requires_grad=True)
decoder = Decoder([torch.randn(32, 24), torch.randn(32, 32), torch.randn(4, 32)], [None] * 3)
def step(n, backend):
    rays_o = torch.tensor([0.0, 0, -3]).expand(1, n, 3)
    rays_d = torch.tensor([0.0, 0, 1]).expand(1, n, 3)
    settings = RenderSettings(n_samples=64)
    r = render_rays(planes, decoder, rays_o, rays_d, settings, backend=backend)
    r.rgb.sum().backward()
for backend in ("auto", "reference"):
    step(64, backend)
    print(peak_growth(lambda: step(2048, backend)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_training_memory_is_that_of_one_chunk() -> None:
    """131,072 samples in chunks of 2,048; in one piece they take 100 MB and more."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", GROWTH],
        cwd=root,
        env={"PYTHONPATH": f"{root}:{root / 'kernels'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    auto, reference = map(int, done.stdout.split())
    assert reference < 64 << 20
    assert auto < 40 << 20  # 8 MiB are kept from the forward pass


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("hidden", [(16,), (16, 16, 16, 16)])
def test_a_chunk_allocates_what_its_rays_were_counted_for(
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    hidden: tuple[int, ...],
    positions: bool,
) -> None:
    """`split_rays` divides the chunk's budget by `sample_bytes`, whatever the samples per ray."""
    pytest.importorskip("triton", reason="the kernels need Triton")
    import itertools

    from fastrecon_kernels import Decoder, RenderSettings
    from fastrecon_kernels.render.field import FieldPlan, FusedField
    from fastrecon_kernels.render.launch import Samples

    widths = [12, *hidden, 4]
    weights = [torch.randn(b, a, device=device) for a, b in itertools.pairwise(widths)]
    decoder = Decoder(weights, [None] * len(weights))
    levels = (torch.randn(1, 3, 4, 8, 8, device=device),)
    settings = RenderSettings()
    plan = FieldPlan(settings, "tf32", False, planes=True, decoder=True, positions=positions)
    field = FusedField(plan, levels, decoder, None)
    allocated = []
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def counted(*args, _original=original, **kwargs):
            tensor = _original(*args, **kwargs)
            allocated.append(tensor.nbytes)
            return tensor

        monkeypatch.setattr(torch, name, counted)
    for n_rays, per_ray in ((16, 16), (8, 32)):
        rays = torch.zeros(n_rays, 3, device=device)
        ts = torch.rand(n_rays, per_ray, device=device).sort(1).values
        samples = Samples(rays, rays + 0.3, ts, 0, n_rays)
        allocated.clear()
        records = field.records(samples, cuts=True)
        d_raw, d_rgb = torch.zeros_like(records.raw), torch.zeros_like(records.rgb)
        field.backward(samples, records, d_raw, d_rgb)
        # Tiles are full here. Lists of them are small; gradients of records are the caller's.
        given = records.raw.nbytes + records.rgb.nbytes + 12 * samples.count * positions
        assert sum(allocated) + given <= field.sample_bytes(True) * samples.count + 512
        assert sum(allocated) + given >= 0.9 * field.sample_bytes(True) * samples.count
