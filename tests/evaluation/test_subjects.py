"""Held-out procedural objects as subjects: the validation's pictures, and true surfaces."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fastrecon.config import Config, DataConfig
from fastrecon.data.stream import HELD_OUT, validation_set
from fastrecon.evaluation.subjects import ProceduralSet, placed_scene, scene_surface
from tests.micro import micro_config


@pytest.fixture
def cfg() -> Config:
    return Config(model=micro_config(), data=DataConfig(max_parts=2, supersample=1))


def test_subjects_are_the_objects_of_the_validation(cfg: Config) -> None:
    truth = validation_set(cfg, 2, 3, 12)
    subjects = list(ProceduralSet(cfg, 2, 3, 12))
    for i, subject in enumerate(subjects):
        assert torch.equal(subject.pictures, truth.rgb[i])
        assert torch.allclose(subject.angles, truth.angles[i], atol=0.05)
        # fails if objects are placed differently here and there
        assert torch.allclose(subject.image(), truth.images[i], atol=1e-4)
    assert [subject.name for subject in subjects] == ["procedural-000", "procedural-001"]


def test_the_true_surface_is_where_the_distance_is_zero(cfg: Config) -> None:
    scene = placed_scene(cfg, HELD_OUT, 1)
    surface = scene_surface(scene, 48)
    points = torch.from_numpy(surface.sample(2000, 0)).float()[None]
    cell = surface.longest_side / 48
    assert float(scene.distance(points).abs().mean()) < 0.2 * cell
    seen = scene.points[0]
    assert surface.longest_side == pytest.approx(
        float((seen.amax(0) - seen.amin(0)).max()), rel=0.05
    )


def test_descriptions_name_the_collection(cfg: Config) -> None:
    other = replace(cfg, data=replace(cfg.data, seed=7))
    assert "seed 7" in ProceduralSet(other, 5, 2, 8).description
    assert "5 procedural objects" in ProceduralSet(other, 5, 2, 8).description
