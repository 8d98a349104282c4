"""Questions about a whole ``Config``: does it make sense, and is it the one used before?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from ..tasks.configs import AnyConfig
from .common import OptimConfig, RunConfig
from .reconstruction import Config

MAY_DIFFER = ("run.", "networks.lpips_weights", "networks.clip_weights")
"""Fields that a resumed run may change: where, how often and on what it runs, where files are."""
BUT_NOT = ("run.seed",)
LEAST_PICTURE = 8
"""Side of the smallest whole picture that is rendered for a loss, pixels."""


def check_config(cfg: Config) -> None:
    """Raise ``ValueError`` naming every field whose value cannot be trained with.

    Sizes inside the network are checked by the model itself.
    """
    data = cfg.data
    faults = [*optim_faults(cfg.optim), *run_faults(cfg.run)]
    faults += _too_small({"data.views": data.views, "data.rays_per_view": data.rays_per_view})
    faults += _negative({f"loss.{name}": weight for name, weight in asdict(cfg.loss).items()})
    faults += [*_picture_faults(cfg), *_self_training_faults(cfg)]
    if not cfg.model.camera_distance > cfg.model.render.radius:
        faults.append(
            f"model.camera_distance ({cfg.model.camera_distance}) must exceed "
            f"model.render.radius ({cfg.model.render.radius}): the camera stands outside the box"
        )
    if not 0 < cfg.model.fov_deg < 180:
        faults.append(f"model.fov_deg must lie between 0 and 180, got {cfg.model.fov_deg}")
    if faults:
        raise ValueError("this configuration cannot be trained:\n  " + "\n  ".join(faults))


def optim_faults(optim: OptimConfig) -> list[str]:
    """What is wrong with an optimizer's values."""
    faults = _too_small({"optim.steps": optim.steps, "optim.batch_size": optim.batch_size})
    faults += _negative(
        {
            "optim.weight_decay": optim.weight_decay,
            "optim.warmup": optim.warmup,
            "optim.start_lr": optim.start_lr,
            "optim.final_lr": optim.final_lr,
        }
    )
    for name, value in {"optim.lr": optim.lr, "optim.clip": optim.clip}.items():
        if not value > 0:
            faults.append(f"{name} must be positive, got {value}")
    for name, value in {
        "optim.ema": optim.ema,
        "optim.betas[0]": optim.betas[0],
        "optim.betas[1]": optim.betas[1],
    }.items():
        if not 0 <= value < 1:
            faults.append(f"{name} must lie in [0, 1), got {value}")
    if optim.kind not in ("adamw", "muon"):
        faults.append(f'optim.kind must be "adamw" or "muon", got {optim.kind!r}')
    if optim.precision not in ("bf16", "fp32"):
        faults.append(f'optim.precision must be "bf16" or "fp32", got {optim.precision!r}')
    return faults


def run_faults(run: RunConfig) -> list[str]:
    """What is wrong with where and how often a run writes."""
    names = (
        "log_every",
        "validate_every",
        "checkpoint_every",
        "keep",
        "validation_objects",
        "validation_views",
        "validation_size",
    )
    return [
        *_too_small({f"run.{name}": getattr(run, name) for name in names}),
        *_negative({"run.data_workers": run.data_workers}),
    ]


def _too_small(values: Mapping[str, int]) -> list[str]:
    return [f"{k} must be at least 1, got {v}" for k, v in values.items() if v < 1]


def _negative(values: Mapping[str, float]) -> list[str]:
    return [f"{k} must not be negative, got {v}" for k, v in values.items() if not v >= 0]


def _picture_faults(cfg: Config) -> list[str]:
    """About whole pictures, networks that judge them, and where pictures come from."""
    faults = []
    data, task = cfg.data, cfg.self_training
    if data.picture_size < 0 or 0 < data.picture_size < LEAST_PICTURE:
        faults.append(
            f"data.picture_size must be 0 or at least {LEAST_PICTURE}, got {data.picture_size}"
        )
    if cfg.loss.perceptual and not data.picture_size:
        faults.append("loss.perceptual compares whole pictures: set data.picture_size, e.g. 128")
    if cfg.networks.perceptual not in ("lpips", "ssim", "none"):
        faults.append(
            f'networks.perceptual must be "lpips", "ssim" or "none", got '
            f"{cfg.networks.perceptual!r}"
        )
    elif cfg.networks.perceptual == "none" and (
        cfg.loss.perceptual or (task.photos and task.cycle_perceptual)
    ):
        faults.append(
            'a perceptual term has a weight but networks.perceptual is "none": choose "lpips", or '
            '"ssim", which needs no weights'
        )
    if data.multiview and cfg.loss.depth:
        faults.append("loss.depth must be 0 with data.multiview, whose depth is not known")
    radius = cfg.model.render.radius
    if data.camera_distance != 0 and not data.camera_distance > radius:
        faults.append(
            "data.camera_distance must be 0 (the model's) or exceed model.render.radius "
            f"({radius}), got {data.camera_distance}"
        )
    if not 0 < data.photo_share <= 1:
        faults.append(f"data.photo_share must lie in (0, 1], got {data.photo_share}")
    if bool(task.photos) != bool(data.photos):
        faults.append(
            "self-training needs both self_training.photos (pictures per step) and data.photos "
            f"(where they are), got {task.photos} and {data.photos!r}"
        )
    return faults


def _self_training_faults(cfg: Config) -> list[str]:
    task = cfg.self_training
    if not task.photos:
        return []
    faults = [] if task.photos > 0 else [f"self_training.photos must be >= 0, got {task.photos}"]
    weights = ("input_rgb", "input_mask", "cycle_rgb", "cycle_mask", "cycle_perceptual", "semantic")
    for name in weights:
        if not getattr(task, name) >= 0:
            faults.append(f"self_training.{name} must not be negative, got {getattr(task, name)}")
    if not any(getattr(task, name) for name in weights):
        faults.append("every self_training weight is 0; set self_training.photos 0 instead")
    if task.size < LEAST_PICTURE:
        faults.append(f"self_training.size must be at least {LEAST_PICTURE}, got {task.size}")
    if task.rays and task.cycle_perceptual:
        faults.append("self_training.cycle_perceptual compares whole pictures: set rays 0")
    if not 0 <= task.rays <= task.size**2:
        faults.append(f"self_training.rays must lie in [0, size^2], got {task.rays}")
    low, high = task.crop_ratio
    if not 1 <= low <= high:
        faults.append(f"self_training.crop_ratio must be 1 <= low <= high, got {task.crop_ratio}")
    # An elevation beyond 90 degrees would be a camera upside down.
    for name, most in {"cycle_limits": (90, 90), "semantic_limits": (180, 90)}.items():
        values = getattr(task, name)
        if not all(0 <= value <= top for value, top in zip(values, most, strict=True)):
            faults.append(
                f"self_training.{name} must lie in [0, {most[0]}] and [0, {most[1]}] degrees, got "
                f"{values}"
            )
    for name, known in {
        "cycle_poses": ("uniform", "floor"),
        "semantic_poses": ("independent", "coupled"),
    }.items():
        if getattr(task, name) not in known:
            faults.append(
                f"self_training.{name} must be {' or '.join(map(repr, known))}, got "
                f"{getattr(task, name)!r}"
            )
    if task.cycle_size < 0 or 0 < task.cycle_size < LEAST_PICTURE:
        faults.append(
            f"self_training.cycle_size must be 0 or at least {LEAST_PICTURE}, got {task.cycle_size}"
        )
    if task.cycle_size and not task.stop_gradient:
        faults.append(
            "self_training.cycle_size renders the novel view again without gradients; with "
            "stop_gradient False it must be 0"
        )
    if task.semantic_views < 1:
        faults.append(f"self_training.semantic_views must be >= 1, got {task.semantic_views}")
    if not task.camera_distance > cfg.model.render.radius:
        faults.append(
            f"self_training.camera_distance ({task.camera_distance}) must exceed "
            f"model.render.radius ({cfg.model.render.radius})"
        )
    if not 0 < task.fov_deg < 180:
        faults.append(f"self_training.fov_deg must lie between 0 and 180, got {task.fov_deg}")
    return faults


def resolve_device(name: str) -> torch.device:
    """``"auto"`` is CUDA where there is one; anything else is a torch device that must exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'run.device must be "auto", "cpu" or "cuda[:n]", got {name!r}') from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"run.device is {name!r} but torch sees {torch.cuda.device_count()} CUDA devices; "
            "use --run.device cpu, or install a torch build for your GPU"
        )
    return device


def config_to_json(cfg: AnyConfig) -> dict[str, Any]:
    """The configuration as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(asdict(cfg)))


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``"optim.lr: 0.0004 then, 0.001 now"`` for each field that a resumed run must not change."""
    before, now = _flatten(old), _flatten(new)
    fixed = [
        name
        for name in dict.fromkeys([*before, *now])
        if name in BUT_NOT or not name.startswith(MAY_DIFFER)
    ]
    absent = "absent"
    return [
        f"{name}: {before.get(name, absent)} then, {now.get(name, absent)} now"
        for name in fixed
        if before.get(name, absent) != now.get(name, absent)
    ]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
