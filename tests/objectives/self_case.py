"""A small self-training case: configuration, stand-ins for CLIP, the arms of the method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrecon.config import Config, DataConfig, NetworksConfig, OptimConfig, SelfTrainingConfig
from fastrecon.models.lrm import LRM
from fastrecon.objectives.supervised import encode
from tests.micro import micro_config

SIDE, SIZE, DISTANCE, FOV = 16, 8, 1.9, 40.0
STEPS = 10


def make_config(*, jitter: bool = False, **task: Any) -> Config:
    fields: dict[str, Any] = {
        "photos": 3,
        "size": SIZE,
        "camera_distance": DISTANCE,
        "fov_deg": FOV,
    }
    return Config(
        model=micro_config(),
        data=DataConfig(photos="somewhere", jitter=jitter),
        networks=NetworksConfig(perceptual="ssim"),
        self_training=SelfTrainingConfig(**(fields | task)),
        optim=OptimConfig(steps=STEPS, precision="fp32"),
    )


def fake_clip(pictures: Tensor) -> Tensor:
    """Unit features that know where a picture has which colour, whatever its size."""
    generator = torch.Generator().manual_seed(7)
    matrix = torch.randn(3 * 16, 6, generator=generator)
    pooled = F.adaptive_avg_pool2d(pictures, 4).flatten(1)
    return F.normalize(torch.tanh((pooled - 0.6) @ matrix), dim=-1)


ARMS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released": {
        "input_rgb": 0.6,
        "input_mask": 0.3,
        "cycle_rgb": 20.0,
        "cycle_mask": 10.0,
        "cycle_perceptual": 10.0,
        "cycle_poses": "floor",
        "cycle_size": 12,
        "semantic_views": 3,
        "semantic_poses": "coupled",
    },
    "naive semantics": {"semantic_hardest": False},
    "end to end": {"stop_gradient": False},
    "no curriculum": {"cycle_limits": (90.0, 90.0)},
    "some rays": {"rays": 20, "cycle_mask": 2.0, "semantic": 0.0},
    "input alone": {"cycle_rgb": 0.0, "semantic": 0.0},
    "semantics alone": {"input_rgb": 0.0, "cycle_rgb": 0.0},
}


@dataclass
class Drawn:
    """The poses and pixels that the last call drew, and with which limits."""

    novel: Tensor = field(default_factory=lambda: torch.empty(0))
    semantic: Tensor = field(default_factory=lambda: torch.empty(0))
    pixels: Tensor | None = None
    limits: list[float] = field(default_factory=list)


class FirstPlanes:
    """Keeps the planes of the first encoding of a call, with their gradient."""

    def __init__(self) -> None:
        self.all: list[Tensor] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        planes = encode(*args, **kwargs)
        if planes.requires_grad:
            planes.retain_grad()
        self.all.append(planes)
        return planes


def gradients(model: LRM, loss: Tensor) -> dict[str, Tensor]:
    values = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    names = [name for name, _ in model.named_parameters()]
    return {n: g for n, g in zip(names, values, strict=True) if g is not None}
