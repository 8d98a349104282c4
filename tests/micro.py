"""The smallest model that has every part, for tests of what is built around models."""

from __future__ import annotations

from typing import Any

from fastrecon_kernels import RenderSettings

from fastrecon.config import BackboneConfig, DecoderConfig, EncoderConfig, LRMConfig


def micro_config(**overrides: Any) -> LRMConfig:
    """A model of some ten thousand parameters that renders in milliseconds."""
    fields: dict[str, Any] = {
        "encoder": EncoderConfig(
            image_size=16, patch_size=8, dim=32, depth=1, heads=2, mlp_dim=32, position_grid=2
        ),
        "backbone": BackboneConfig(grid=2, dim=32, depth=1, heads=2, head_dim=16, channels=4),
        "decoder": DecoderConfig(hidden=8, layers=1),
        "render": RenderSettings(radius=0.75, n_samples=8),
        "position_init": "sincos",
        "mesh_level": 5.0,
    }
    return LRMConfig(**(fields | overrides))
