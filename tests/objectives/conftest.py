"""Fixtures of the self-training case: see `self_case`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastrecon import perceptual
from fastrecon.models.lrm import LRM
from fastrecon.objectives import poses, self_training
from tests.micro import micro_config
from tests.objectives.self_case import SIDE, Drawn, FirstPlanes, fake_clip


@pytest.fixture(autouse=True)
def _clip_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "load_clip", lambda networks, device: fake_clip)


@pytest.fixture(scope="module")
def model() -> LRM:
    """Weights large enough that pictures, planes and views differ visibly."""
    torch.manual_seed(0)
    model = LRM(micro_config()).train()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith(("post_processor", "decoder")) and value.ndim > 1:
                value.mul_(2.5)
            elif name.startswith("backbone.transformer_blocks.0.attn2"):
                value.mul_(3.0)
    return model


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Three pictures with soft edges, colours times alpha."""
    generator = torch.Generator().manual_seed(3)
    rgb = F.interpolate(torch.rand(3, 3, 5, 5, generator=generator), SIDE, mode="bilinear")
    y, x = torch.meshgrid(torch.arange(SIDE) - 7.5, torch.arange(SIDE) - 7.5, indexing="ij")
    radii = torch.tensor([3.0, 5.0, 6.5])[:, None, None]
    alpha = (radii - (x.square() + y.square()).sqrt() + 0.5).clamp(0, 1)[:, None]
    return torch.cat([rgb * alpha, alpha], dim=1)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    found = Drawn()

    def cycle(task, count, limit, generator):
        found.limits.append(limit)
        found.novel = poses.cycle_poses(task, count, limit, generator)
        return found.novel

    def semantic(task, novel, generator):
        found.semantic = poses.semantic_poses(task, novel, generator)
        return found.semantic

    monkeypatch.setattr(self_training, "cycle_poses", cycle)
    monkeypatch.setattr(self_training, "semantic_poses", semantic)
    original = self_training.SelfTraining._pixels

    def pixels(self, count, generator):
        found.pixels = original(self, count, generator)
        return found.pixels

    monkeypatch.setattr(self_training.SelfTraining, "_pixels", pixels)
    return found


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> FirstPlanes:
    found = FirstPlanes()
    monkeypatch.setattr(self_training, "encode", found)
    return found
