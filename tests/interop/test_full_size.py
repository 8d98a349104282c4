"""TripoSR at its full size: 419 million made-up weights, from file to picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fastrecon.cameras import camera_rays, orbit_c2w
from fastrecon.config import LRMConfig
from fastrecon.models import LRM
from tests.models.test_lrm import plain_encode, plain_render


@pytest.mark.slow
def test_a_full_size_checkpoint_loads_encodes_and_renders(
    published: dict[str, Any], tmp_path: Path
) -> None:
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in LRM().state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.ones(shape)
        if "norm" in name and name.endswith("weight")
        else torch.randn(shape, generator=generator) * 0.03
        for name, shape in shapes.items()
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(published))
    torch.save(state, tmp_path / "model.ckpt")
    model = LRM.from_pretrained(tmp_path)
    assert model.config == LRMConfig()
    assert sum(p.numel() for p in model.parameters()) == 419_275_628
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)

    with torch.no_grad():
        images = torch.rand(1, 3, 512, 512, generator=generator)
        planes = model.encode(images)
        assert planes.shape == (1, 3, 40, 64, 64)
        expected = plain_encode(state, images, model.config)
        # Both are in fp32: they agree to its rounding over 28 layers.
        error = (planes - expected).norm() / expected.norm()
        assert error < 1e-4, error

        for weight in model.decoder_view.weights:
            weight.mul_(8)  # made-up weights are small: give the densities something to say
        rays_o, rays_d = camera_rays(orbit_c2w(0.5, 0.3, 1.9), 8, 8, 40.0)
        rays_o, rays_d = rays_o.reshape(1, -1, 3), rays_d.reshape(1, -1, 3)
        rendering = model.train().render(planes, rays_o, rays_d)
        plain = plain_render(model, planes[0], rays_o[0], rays_d[0])
        torch.testing.assert_close(rendering.rgb[0], plain, rtol=1e-4, atol=1e-4)
        assert rendering.opacity.mean() > 0.1, "a test of empty space proves nothing"
