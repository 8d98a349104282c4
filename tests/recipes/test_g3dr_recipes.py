"""G3DR's recipes hold the numbers of the supplement, and of the public code, one by one."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from fastrecon.config.g3dr import PLANE_AXES, G3DRConfig
from fastrecon.config.g3dr_checks import check_g3dr_config
from fastrecon.objectives.g3dr import AROUND, DEEP_LAYERS, KL_WIDTH
from fastrecon.optim import learning_rate
from fastrecon.recipes import g3dr as recipes_g3dr
from tests.recipes.test_recipes import at

PAPER: dict[str, Any] = {
    # the network and its planes
    "model.size": 128,
    "model.width": 128,
    "model.multipliers": (1, 2, 4, 8),
    "model.learned": 256,
    "model.heads": 4,
    "model.head_dim": 32,
    "model.channels": 64,
    "model.hidden": 64,
    "model.levels": (0, 1, 2),
    "model.render.axes": PLANE_AXES["orthogonal"],
    "model.render.reduction": "mean",
    # the renderer
    "model.render.radius": 1.0,
    "model.render.n_samples": 32,
    "model.render.n_importance": 32,
    "model.render.stratified": True,
    "model.render.quadrature": "midpoint",
    "model.render.outside": "zero",
    "model.render.density_activation": "softplus",
    "model.render.density_shift": -1.0,
    "model.render.rgb_padding": 0.001,
    "model.render.background": "black",
    "model.render.rgb_range": (-1.0, 1.0),
    "model.render.depth_eps": 1e-3,
    "model.render.depth_kernel": (1.25, 0.03, 0.05, 1.0),
    "model.render.early_stop": 0.0,
    # the cameras
    "model.camera.radius": 5.0,
    "model.camera.fov_deg": 18.0,
    "model.camera.depth_range": (4.0, 6.0),
    "model.camera.yaw_den": (24.0, 6.0),
    "model.camera.yaw_share": 1 / 3,
    "model.camera.pitch_deg": 10.0,
    "model.camera.video": (0.35, 0.15),
    "data.flip": 0.5,
    "networks.perceptual": "lpips",
    # the optimizer
    "optim.kind": "adamw",
    "optim.weight_decay": 0.0,  # so that it is Adam
    "optim.betas": (0.9, 0.99),
    "optim.eps": 1e-8,
    "optim.lr": 1e-4,
    "optim.warmup": 20_000,
    "optim.final_lr": 0.0,
    "optim.steps": 300_000,
    "optim.batch_size": 48,
    "optim.ema": 0.0,
}
PAPER_LOSS = {
    "rgb": 1.0,
    "depth": 2.0,
    "depth_kernel": True,
    "depth_kl": 0.0,
    "perceptual": 0.5,
    "perceptual_from": 0.0,
    "clip": 0.35,
    "clip_start": 0.02,
    "clip_ramp": 100_000,
    "clip_canonical": 0.0,
    "tv": 0.1,
    "deep": 0.5,
    "opacity": 1.0,
    "opacity_ramp": 0.5,
    "novel": 0.4,
    "around_depth": 0.4,
}
RELEASED = PAPER | {
    "model.render.axes": PLANE_AXES["eg3d"],
    "optim.lr": 5e-5,
    "optim.warmup": 6000,
}
RELEASED_LOSS = PAPER_LOSS | {
    "perceptual": 1.0,
    "perceptual_from": 0.5,
    "clip_ramp": 0,  # overwritten by its final value
    "clip_canonical": 0.175,
    "deep": 2.0,
}


@pytest.mark.parametrize(
    ("recipe", "numbers", "loss"),
    [
        (recipes_g3dr.g3dr, PAPER, PAPER_LOSS),
        (recipes_g3dr.g3dr_released, RELEASED, RELEASED_LOSS),
    ],
)
def test_every_number(recipe: Any, numbers: dict[str, Any], loss: dict[str, Any]) -> None:
    cfg = recipe()
    assert {path: at(cfg, path) for path in numbers} == numbers
    assert asdict(cfg.loss) == loss
    assert learning_rate(cfg.optim, -1) == pytest.approx(2e-6), "before the first step"
    assert cfg.optim.clip > 1e4, "published runs clip no gradient"


def test_numbers_that_are_no_fields() -> None:
    assert AROUND == 0.05
    assert DEEP_LAYERS == (3, 4)
    # the same bell as the kernel's exp(-(t - d)^2 / 0.03)
    assert pytest.approx(0.015) == KL_WIDTH**2
    kernel = PAPER["model.render.depth_kernel"]
    assert math.sqrt(0.03 * math.log(kernel[0])) == pytest.approx(0.0818, abs=1e-4)
    assert math.sqrt(0.03 * math.log(kernel[0] / kernel[2])) == pytest.approx(0.3108, abs=1e-4)


@pytest.mark.parametrize("name", recipes_g3dr.G3DR_RECIPES)
def test_recipes_can_be_trained_with(name: str) -> None:
    cfg = recipes_g3dr.G3DR_RECIPES[name]()
    check_g3dr_config(cfg)
    assert cfg.run.out == f"runs/{name}"


def test_small_recipes_need_no_files_and_no_weights() -> None:
    for recipe in (recipes_g3dr.g3dr_tiny, recipes_g3dr.g3dr_mini):
        cfg: G3DRConfig = recipe()
        assert not cfg.data.path
        assert cfg.networks.perceptual == "ssim"
        assert cfg.loss.perceptual > 0
        assert cfg.loss.clip == cfg.loss.clip_canonical == cfg.loss.deep == 0
        check_g3dr_config(cfg)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss.tv": -1.0}, "loss.tv must not be negative"),
        ({"loss.novel": 1.5}, r"loss.novel must lie in \[0, 1\]"),
        ({"loss.rgb": 0.0, "loss.depth": 0.0}, "nothing is learnt"),
        ({"loss.deep": 0.5}, 'needs networks.perceptual "lpips"'),
        ({"networks.perceptual": "none"}, "loss.perceptual has a weight"),
        ({"networks.perceptual": "vgg"}, "networks.perceptual must be"),
        ({"data.flip": 2.0}, r"data.flip must lie in \[0, 1\]"),
        ({"data.max_parts": 0}, "data.max_parts must be at least 1"),
        ({"model.camera.depth_range": (6.0, 4.0)}, "depth_range must be 0 <= near < far"),
        ({"model.camera.radius": 0.9}, "the camera stands outside the box"),
        ({"model.camera.yaw_den": (24.0, 0.0)}, "yaw_den must be positive"),
        ({"model.camera.fov_deg": 180.0}, "fov_deg must lie between"),
        ({"model.camera.pitch_deg": 91.0}, "pitch_deg must lie in"),
        ({"optim.lr": 0.0}, "optim.lr must be positive"),
        ({"run.keep": 0}, "run.keep must be at least 1"),
    ],
)
def test_values_that_make_no_sense(change: dict[str, Any], words: str) -> None:
    cfg = recipes_g3dr.g3dr_tiny()
    for path, value in change.items():
        cfg = replaced(cfg, path, value)
    with pytest.raises(ValueError, match=words):
        check_g3dr_config(cfg)


def replaced(thing: Any, path: str, value: Any) -> Any:
    from dataclasses import replace

    name, _, rest = path.partition(".")
    inner = replaced(getattr(thing, name), rest, value) if rest else value
    return replace(thing, **{name: inner})
