"""Real3D's recipes hold the numbers of the paper, and of the public code, one by one."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from fastrecon import recipes
from fastrecon.config import Config


def at(cfg: Config, path: str) -> Any:
    value: Any = cfg
    for name in path.split("."):
        value = getattr(value, name)
    return value


PAPER = {
    # L_RECON: MSE + 1.0 LPIPS and nothing else, n = 4 views
    "loss": {"rgb": 1.0, "perceptual": 1.0},
    "networks.perceptual": "lpips",
    "data.views": 4,
    # L_SELF = 0.3 L_in + 5 L_pix + 1 L_sem, each of colours alone
    "self_training.input_rgb": 0.3,
    "self_training.input_mask": 0.0,
    "self_training.cycle_rgb": 5.0,
    "self_training.cycle_mask": 0.0,
    "self_training.cycle_perceptual": 0.0,
    "self_training.semantic": 1.0,
    # poses
    "self_training.cycle_limits": (15.0, 90.0),
    "self_training.cycle_poses": "uniform",
    "self_training.cycle_size": 0,
    "self_training.stop_gradient": True,
    "self_training.semantic_views": 4,
    "self_training.semantic_limits": (120.0, 45.0),
    "self_training.semantic_poses": "independent",
    "self_training.semantic_hardest": True,
    # pictures
    "self_training.size": 128,
    "self_training.rays": 0,
    "data.picture_size": 128,
    "self_training.crop_ratio": (1.45, 1.7),
    "self_training.camera_distance": 3.0,
    "data.camera_distance": 2.4,
    "model.camera_distance": 3.0,
    "model.foreground_ratio": 0.65,
    # batches and steps
    "self_training.photos": 40,
    "optim.batch_size": 40,
    "optim.steps": 40_000,
    "optim.warmup": 3000,
    # the optimizer
    "optim.kind": "adamw",
    "optim.lr": 4e-5,
    "optim.betas": (0.9, 0.96),
    "optim.eps": 1e-6,
    "optim.weight_decay": 0.05,
    "optim.clip": 1.0,
    "optim.precision": "bf16",
    # the renderer: 128 midpoints, deterministic
    "model.render.n_samples": 128,
    "model.render.radius": 0.87,
    "model.render.interval": "chord",
    "model.render.stratified": False,
    "data.jitter": False,
    # the checkpoint is chosen on a held-out validation set
    "run.keep_best": True,
}

RELEASED = PAPER | {
    "loss": {"rgb": 2.0, "mask": 1.0, "perceptual": 1.0},
    "self_training.input_rgb": 0.6,
    "self_training.input_mask": 0.3,
    "self_training.cycle_rgb": 20.0,
    "self_training.cycle_mask": 10.0,
    "self_training.cycle_perceptual": 10.0,
    "self_training.cycle_poses": "floor",
    "self_training.cycle_size": 512,
    "self_training.semantic_views": 3,
    "self_training.semantic_poses": "coupled",
    "self_training.crop_ratio": (1.45, 1.95),
    "self_training.photos": 80,
    "optim.batch_size": 80,
    "optim.steps": 10_000,
    "optim.warmup": 100,
}

STAGE_0 = PAPER | {"self_training.photos": 0, "optim.batch_size": 80}


@pytest.mark.parametrize(
    ("recipe", "numbers"),
    [
        (recipes.real3d, PAPER),
        (recipes.real3d_released, RELEASED),
        (recipes.real3d_stage0, STAGE_0),
    ],
)
def test_every_number(recipe: Any, numbers: dict[str, Any]) -> None:
    cfg = recipe()
    found = {path: at(cfg, path) for path in numbers}
    found["loss"] = {name: weight for name, weight in asdict(found["loss"]).items() if weight}
    assert found == numbers


@pytest.mark.parametrize("recipe", [recipes.real3d, recipes.real3d_released])
def test_pictures_are_taken_as_the_model_takes_its_input(recipe: Any) -> None:
    cfg = recipe()
    assert math.radians(cfg.self_training.fov_deg) == pytest.approx(0.691150367, abs=1e-6)
    assert cfg.self_training.fov_deg == cfg.model.fov_deg
    assert cfg.self_training.camera_distance == cfg.model.camera_distance
    low, high = cfg.self_training.crop_ratio
    assert low < 1 / cfg.model.foreground_ratio < high


def test_the_weights_follow_from_stage_to_stage() -> None:
    first, second = recipes.real3d_stage0(), recipes.real3d()
    assert first.run.init == "stabilityai/TripoSR"
    assert second.run.init == f"{first.run.out}/model"
    folders = {recipe().run.out for recipe in recipes.RECIPES.values()}
    assert len(folders) == len(recipes.RECIPES)
