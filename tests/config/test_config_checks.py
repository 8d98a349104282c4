"""Configurations that make no sense are refused by name, before anything is built."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from fastrecon import recipes
from fastrecon.config import Config
from fastrecon.config.checks import check_config, config_differences, config_to_json
from tests.micro import micro_config


def changed(cfg: Any, changes: dict[str, Any]) -> Any:
    """``{"data.views": 3}`` applied to a configuration."""
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        value = changed(getattr(cfg, name), {rest: value}) if rest else value
        cfg = replace(cfg, **{name: value})
    return cfg


GOOD: Config = changed(
    Config(model=micro_config()), {"data.photos": "photos", "self_training.photos": 2}
)

FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"data.picture_size": 4}, "data.picture_size must be 0 or at least 8, got 4"),
    ({"data.picture_size": -8}, "data.picture_size must be 0 or at least 8, got -8"),
    ({"loss.perceptual": 1.0, "networks.perceptual": "ssim"}, "set data.picture_size"),
    ({"networks.perceptual": "vgg"}, 'must be "lpips", "ssim" or "none", got \'vgg\''),
    ({"loss.perceptual": 1.0, "data.picture_size": 16}, 'networks.perceptual is "none"'),
    ({"self_training.cycle_perceptual": 1.0}, 'networks.perceptual is "none"'),
    ({"data.multiview": "sets", "loss.depth": 0.1}, "loss.depth must be 0 with data.multiview"),
    ({"data.camera_distance": -1.0}, "data.camera_distance must be 0"),
    ({"data.camera_distance": 0.5}, "exceed model.render.radius"),
    ({"data.photo_share": 0.0}, "data.photo_share must lie in (0, 1], got 0.0"),
    ({"data.photo_share": 1.5}, "data.photo_share must lie in (0, 1], got 1.5"),
    ({"data.photos": ""}, "needs both self_training.photos"),
    ({"self_training.photos": 0}, "needs both self_training.photos"),
    ({"self_training.photos": -2}, "self_training.photos must be >= 0, got -2"),
    ({"self_training.input_rgb": -0.1}, "self_training.input_rgb must not be negative"),
    ({"self_training.input_mask": -0.1}, "self_training.input_mask must not be negative"),
    ({"self_training.cycle_rgb": float("nan")}, "self_training.cycle_rgb must not be negative"),
    ({"self_training.cycle_mask": -1.0}, "self_training.cycle_mask must not be negative"),
    ({"self_training.cycle_perceptual": -1.0}, "cycle_perceptual must not be negative"),
    ({"self_training.semantic": -1.0}, "self_training.semantic must not be negative"),
    (
        {f"self_training.{name}": 0.0 for name in ("input_rgb", "cycle_rgb", "semantic")},
        "every self_training weight is 0",
    ),
    ({"self_training.size": 4}, "self_training.size must be at least 8"),
    ({"self_training.rays": -1}, "self_training.rays must lie in [0, size^2], got -1"),
    ({"self_training.rays": 128**2 + 1}, "self_training.rays must lie in [0, size^2]"),
    (
        {
            "self_training.rays": 64,
            "self_training.cycle_perceptual": 1.0,
            "networks.perceptual": "ssim",
        },
        "cycle_perceptual compares whole pictures: set rays 0",
    ),
    ({"self_training.crop_ratio": (0.9, 1.5)}, "crop_ratio must be 1 <= low <= high"),
    ({"self_training.crop_ratio": (1.7, 1.45)}, "crop_ratio must be 1 <= low <= high"),
    ({"self_training.cycle_limits": (-1.0, 90.0)}, "cycle_limits must lie in [0, 90]"),
    ({"self_training.cycle_limits": (15.0, 120.0)}, "cycle_limits must lie in [0, 90]"),
    ({"self_training.semantic_limits": (200.0, 45.0)}, "semantic_limits must lie in [0, 180]"),
    ({"self_training.semantic_limits": (120.0, 95.0)}, "and [0, 90] degrees"),
    ({"self_training.cycle_poses": "abs"}, "cycle_poses must be 'uniform' or 'floor', got 'abs'"),
    ({"self_training.semantic_poses": "x"}, "semantic_poses must be 'independent' or 'coupled'"),
    ({"self_training.cycle_size": -1}, "self_training.cycle_size must be 0 or at least 8"),
    ({"self_training.cycle_size": 4}, "self_training.cycle_size must be 0 or at least 8"),
    (
        {"self_training.cycle_size": 64, "self_training.stop_gradient": False},
        "with stop_gradient False it must be 0",
    ),
    ({"self_training.semantic_views": 0}, "self_training.semantic_views must be >= 1"),
    ({"self_training.camera_distance": 0.7}, "self_training.camera_distance (0.7) must exceed"),
    ({"self_training.fov_deg": 180.0}, "self_training.fov_deg must lie between 0 and 180"),
]


@pytest.mark.parametrize(("changes", "words"), FAULTS, ids=[words for _, words in FAULTS])
def test_a_fault_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="cannot be trained") as error:
        check_config(changed(GOOD, changes))
    assert words in str(error.value)


def test_all_faults_are_named_at_once() -> None:
    bad = changed(GOOD, {"self_training.size": 1, "data.photo_share": 2.0, "optim.steps": 0})
    with pytest.raises(ValueError, match="cannot be trained") as error:
        check_config(bad)
    assert len(str(error.value).splitlines()) == 1 + 3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data.photos": "", "self_training.photos": 0},
        {"data.photos": "", "self_training.photos": 0, "self_training.size": 0},
        {"data.photo_share": 0.01, "self_training.crop_ratio": (1.0, 1.0)},
        {"self_training.cycle_limits": (90.0, 15.0), "self_training.semantic_limits": (180.0, 0.0)},
        {"self_training.cycle_size": 512, "self_training.rays": 128**2},
        {"data.multiview": "sets", "data.camera_distance": 2.4, "data.picture_size": 8},
        {"loss.perceptual": 1.0, "data.picture_size": 16, "networks.perceptual": "ssim"},
    ],
)
def test_what_makes_sense_is_taken(changes: dict[str, Any]) -> None:
    check_config(changed(GOOD, changes))


@pytest.mark.parametrize("name", recipes.RECONSTRUCTION_RECIPES)
def test_recipes_make_sense_once_they_have_pictures(name: str) -> None:
    cfg = recipes.RECONSTRUCTION_RECIPES[name]()
    if cfg.self_training.photos:
        with pytest.raises(ValueError, match=r"data\.photos"):
            check_config(cfg)
        cfg = changed(cfg, {"data.photos": "photos"})
    check_config(cfg)


def test_a_resumed_run_may_change_where_and_how_often_but_not_what() -> None:
    old = config_to_json(GOOD)
    free = changed(GOOD, {"run.keep_best": True, "run.validation_objects": 3, "run.out": "x"})
    assert config_differences(old, config_to_json(free)) == []
    for part in ("self_training", "networks", "data", "loss"):
        for name, value in asdict(getattr(GOOD, part)).items():
            other = value + "x" if isinstance(value, str) else [9, 9]
            new = {**old, part: {**old[part], name: other}}
            if name.endswith("_weights"):  # where files lie is no difference
                assert config_differences(old, new) == []
                continue
            [difference] = config_differences(old, new)
            assert difference.startswith(f"{part}.{name}: ")
    [difference] = config_differences(
        old, config_to_json(changed(GOOD, {"self_training.crop_ratio": (1.45, 1.95)}))
    )
    assert difference == "self_training.crop_ratio: [1.45, 1.7] then, [1.45, 1.95] now"
