"""Questions about a whole ``Config``: does it make sense, and is it the one used before?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from .config import Config

MAY_DIFFER = ("run.",)
"""Fields that a resumed run may change: where, how often and on what it runs."""
BUT_NOT = ("run.seed",)


def check_config(cfg: Config) -> None:
    """Raise ``ValueError`` naming every field whose value cannot be trained with.

    Sizes inside the network are checked by the model itself.
    """
    optim, data, run = cfg.optim, cfg.data, cfg.run
    at_least_one = {
        "optim.steps": optim.steps,
        "optim.batch_size": optim.batch_size,
        "data.views": data.views,
        "data.rays_per_view": data.rays_per_view,
        "run.log_every": run.log_every,
        "run.validate_every": run.validate_every,
        "run.checkpoint_every": run.checkpoint_every,
        "run.keep": run.keep,
        "run.validation_objects": run.validation_objects,
        "run.validation_views": run.validation_views,
        "run.validation_size": run.validation_size,
    }
    faults = [f"{k} must be at least 1, got {v}" for k, v in at_least_one.items() if v < 1]
    not_negative = {
        "optim.weight_decay": optim.weight_decay,
        "optim.warmup": optim.warmup,
        "optim.final_lr": optim.final_lr,
        "run.data_workers": run.data_workers,
        **{f"loss.{name}": weight for name, weight in asdict(cfg.loss).items()},
    }
    faults += [f"{k} must not be negative, got {v}" for k, v in not_negative.items() if not v >= 0]
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
    if not cfg.model.camera_distance > cfg.model.render.radius:
        faults.append(
            f"model.camera_distance ({cfg.model.camera_distance}) must exceed "
            f"model.render.radius ({cfg.model.render.radius}): the camera stands outside the box"
        )
    if not 0 < cfg.model.fov_deg < 180:
        faults.append(f"model.fov_deg must lie between 0 and 180, got {cfg.model.fov_deg}")
    if faults:
        raise ValueError("this configuration cannot be trained:\n  " + "\n  ".join(faults))


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


def config_to_json(cfg: Config) -> dict[str, Any]:
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
