"""The protocol between the trainer and what it trains."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config import Config, RunConfig
from ..config.g3dr import G3DRConfig
from ..config.rgbd import RGBDAutoencoderConfig, RGBDDiffusionConfig
from ..config.super_resolution import SuperResolutionConfig
from .configs import AnyConfig

SEEDS_APART = 7_368_787
"""Between the seeds of two processes: more than anybody's own seeds are apart."""


class Model(Protocol):
    """A module that can write itself to a folder."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write configuration and weights, each atomically."""
        ...


class Batch(Protocol):
    """What one step learns from."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        ...


class Objective(Protocol):
    """What a batch is trained towards."""

    def __call__(self, model: Any, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar with gradient, and detached scalars to log; no host sync."""
        ...


@dataclass(frozen=True)
class Report:
    """How a model did on what it never saw."""

    score: float
    """One number, higher is better, by which the best weights are chosen."""
    scalars: dict[str, float]
    table: str
    """For a terminal."""
    content: Any
    """A dataclass with everything, for ``validation.json``."""
    picture: Tensor | None = None
    """(3, H, W) in [0, 1]."""


class Task(Protocol):
    """One kind of run."""

    @property
    def images_per_step(self) -> int:
        """For the logged speed."""
        ...

    def share(self, rank: int, size: int) -> Task:
        """The part of one of ``size`` processes: its objects of each batch, its random draws.

        Raises:
            ValueError: a batch cannot be divided.
        """
        ...

    def check(self) -> None:
        """Raise ``ValueError`` naming every field whose value cannot be trained with."""
        ...

    def build_model(self) -> nn.Module:
        """The model, random or with the weights of ``run.init``; a ``Model``."""
        ...

    def build_objective(self, device: torch.device) -> Objective:
        """The objective, with whatever networks it needs on ``device``."""
        ...

    def batches(self, device: torch.device | str) -> Callable[[int], Batch]:
        """The batch of a step: a function of the configuration and the step alone, picklable for
        worker processes. What is computed for it is computed on ``device``."""
        ...

    def validate(self, model: Any) -> Report:
        """Judge a model; it is left in the mode that it was in."""
        ...


def divided(name: str, total: int, size: int) -> int:
    """One process's part of a batch.

    Raises:
        ValueError: nothing whole.
    """
    if total % size:
        raise ValueError(f"{name} {total} must be a multiple of the {size} processes")
    return total // size


def share_run(run: RunConfig, rank: int) -> RunConfig:
    """The run of one process: random draws of its own."""
    return replace(run, seed=run.seed + SEEDS_APART * rank)


def task_for(cfg: AnyConfig) -> Task:
    """The task that a configuration describes.

    Raises:
        TypeError: no task has a configuration of that type.
    """
    if isinstance(cfg, Config):
        from .reconstruction import Reconstruction

        return Reconstruction(cfg)
    if isinstance(cfg, G3DRConfig):
        from .scene import SceneGeneration

        return SceneGeneration(cfg)
    if isinstance(cfg, SuperResolutionConfig):
        from .super_resolution import SuperResolution

        return SuperResolution(cfg)
    if isinstance(cfg, RGBDAutoencoderConfig):
        from .autoencoder import RGBDAutoencoding

        return RGBDAutoencoding(cfg)
    if isinstance(cfg, RGBDDiffusionConfig):
        from .diffusion import RGBDGeneration

        return RGBDGeneration(cfg)
    raise TypeError(f"no task is configured by {type(cfg).__name__}; give a recipe's result")
