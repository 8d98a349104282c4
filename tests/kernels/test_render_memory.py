"""Training memory of `render_rays` on a CPU is that of one chunk of rays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
