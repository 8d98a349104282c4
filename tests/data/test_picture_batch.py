"""Procedural batches of whole pictures: what the scene looks like, and the rays to it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from fastrecon.cameras import orbit_c2w
from fastrecon.config import Config, DataConfig, OptimConfig
from fastrecon.data.batches import Batch, TrainingBatch
from fastrecon.data.procedural.scene import Scene
from fastrecon.data.stream import procedural_batch
from tests.micro import micro_config

V = 3


def make_config(**data: Any) -> Config:
    model = micro_config()
    fields: dict[str, Any] = {"seed": 1, "views": V, "rays_per_view": 9}
    return Config(
        model=replace(model, encoder=replace(model.encoder, image_size=24)),
        data=DataConfig(**(fields | data)),
        optim=OptimConfig(batch_size=3),
    )


def test_whole_pictures_are_those_of_the_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anti-aliased, row by row, from the cameras of view 0 and of random orbits."""
    placed, original = [], Scene.render

    def render(self, c2w, size, fov_deg, supersample=1):
        placed.append((self, c2w))
        return original(self, c2w, size, fov_deg, supersample)

    monkeypatch.setattr(Scene, "render", render)
    cfg = make_config(picture_size=10)
    found = procedural_batch(cfg, 2)
    monkeypatch.undo()
    scene, c2w = next((s, c) for s, c in placed if c.shape[1] == V)
    assert found.picture_size == 10
    assert found.rgb.shape == found.rays_d.shape == (3, V, 100, 3)
    assert found.mask.shape == found.depth.shape == (3, V, 100)
    canonical = orbit_c2w(0.0, 0.0, cfg.model.camera_distance)
    assert torch.equal(c2w[:, 0], canonical.expand(3, 4, 4))
    pictures = scene.render(c2w, 10, cfg.model.fov_deg, cfg.data.supersample)
    focal = 5 / math.tan(math.radians(cfg.model.fov_deg) / 2)
    for row, column in ((0, 0), (4, 5), (7, 2), (9, 9)):
        rgba = pictures.rgba[..., row, column]
        ray = 10 * row + column
        alpha = rgba[..., 3:]
        torch.testing.assert_close(found.rgb[:, :, ray], rgba[..., :3] * alpha + 1 - alpha)
        torch.testing.assert_close(found.mask[:, :, ray], alpha[..., 0])
        torch.testing.assert_close(found.depth[:, :, ray], pictures.depth[..., row, column])
        local = torch.tensor([(column + 0.5 - 5) / focal, (5 - row - 0.5) / focal, -1.0])
        d = torch.nn.functional.normalize(c2w[..., :3, :3] @ local, dim=-1)
        torch.testing.assert_close(found.rays_d[:, :, ray], d)
        torch.testing.assert_close(found.rays_o[:, :, ray], c2w[..., :3, 3])
    soft = (found.mask > 0) & (found.mask < 1)
    assert 0 < float(soft.float().mean()) < 0.4, "edges are anti-aliased"


def test_whole_pictures_and_rays_show_the_same_objects() -> None:
    pictures, rays = (procedural_batch(make_config(picture_size=size), 3) for size in (8, 0))
    assert torch.equal(pictures.images, rays.images)
    assert torch.equal(pictures.rays_o[:, :, 0], rays.rays_o[:, :, 0])
    assert rays.picture_size == 0
    again = procedural_batch(make_config(picture_size=8), 3)
    for field in dataclasses.fields(Batch):
        one, other = getattr(pictures, field.name), getattr(again, field.name)
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same, field.name


def test_batches_move_whole() -> None:
    batch = procedural_batch(make_config(picture_size=8), 0)
    moved = TrainingBatch(batch, torch.zeros(2, 4, 3, 3)).to("meta")
    assert moved.photos is not None
    assert moved.photos.device.type == "meta"
    assert moved.known.picture_size == 8
    values = [getattr(moved.known, field.name) for field in dataclasses.fields(Batch)]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    assert len(tensors) >= 6
    assert all(value.device.type == "meta" for value in tensors)
    assert TrainingBatch(batch).to("meta").photos is None
