"""Small checkpoints in the layouts that other projects publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fastrecon_kernels import RenderSettings
from torch import Tensor

from fastrecon.config import BackboneConfig, DecoderConfig, EncoderConfig, LRMConfig
from fastrecon.models import LRM


@pytest.fixture
def published() -> dict[str, Any]:
    """TripoSR's config.yaml."""
    return yaml.safe_load((Path(__file__).parent / "triposr_config.yaml").read_text())


@pytest.fixture(scope="session")
def small_config() -> LRMConfig:
    """The smallest DINO with a tiny trunk."""
    return LRMConfig(
        encoder=EncoderConfig(
            image_size=32, patch_size=16, dim=384, depth=12, heads=6, mlp_dim=1536, position_grid=14
        ),
        backbone=BackboneConfig(grid=4, dim=32, depth=1, heads=2, head_dim=16, channels=4),
        decoder=DecoderConfig(hidden=16, layers=2),
    )


@pytest.fixture(scope="session")
def small_state(small_config: LRMConfig) -> dict[str, Tensor]:
    """Its weights, made up."""
    torch.manual_seed(0)
    return LRM(small_config).state_dict()


@pytest.fixture
def small_folder(tmp_path: Path, published: dict[str, Any]) -> Path:
    """A folder with its config.yaml in TripoSR's layout, and no weights yet."""
    published["cond_image_size"] = 32
    published["image_tokenizer"]["pretrained_model_name_or_path"] = "facebook/dino-vits16"
    published["tokenizer"] = {"plane_size": 4, "num_channels": 32}
    published["backbone"] = {
        "in_channels": 32,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 1,
        "cross_attention_dim": 384,
    }
    published["post_processor"] = {"in_channels": 32, "out_channels": 4}
    published["decoder"] |= {"in_channels": 12, "n_neurons": 16, "n_hidden_layers": 2}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(published))
    return tmp_path


@pytest.fixture
def tiny() -> LRM:
    """A model of this package's own, with no section of its configuration at the defaults."""
    torch.manual_seed(0)
    config = LRMConfig(
        encoder=EncoderConfig(
            image_size=32, patch_size=8, dim=48, depth=1, heads=3, mlp_dim=96, position_grid=3
        ),
        backbone=BackboneConfig(grid=4, dim=32, depth=1, heads=2, head_dim=16, channels=5),
        decoder=DecoderConfig(hidden=16, layers=2, activation="softplus"),
        render=RenderSettings(n_samples=8, near_far=(0.5, 2.5), background=(0.1, 0.2, 0.3)),
        position_init="sincos",
        camera_distance=2.5,
    )
    return LRM(config).eval()
