"""The first stage of f_rgb: an ``RGBDAutoencoder`` on pictures with depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config.g3dr import G3DRConfig
from ..config.rgbd import RGBDAutoencoderConfig
from ..config.rgbd_checks import check_autoencoder_run
from ..data.rgbd import RGBDBatch
from ..data.scene_stream import scene_batch
from ..evaluation.estimates import Estimate, estimate
from ..evaluation.metrics import psnr
from ..evaluation.scene_validation import SceneSet
from ..models.rgbd import RGBDAutoencoder
from ..objectives.autoencoder import AutoencoderObjective
from .task import Report, divided, share_run

CHUNK = 16
"""Pictures at a time in validation."""
ROWS = 6


@dataclass(frozen=True)
class AutoencoderScores:
    """Means over held-out pictures with 95% bootstrap intervals."""

    pictures: int
    psnr: Estimate
    """Of the reconstructed colours, dB."""
    depth_error: Estimate
    """Mean absolute error of depth in [0, 1]."""

    def table(self) -> str:
        """For a terminal."""
        return (
            f"PSNR of reconstructed pictures     {self.psnr.text()} dB\n"
            f"absolute error of depth in [0, 1]  {self.depth_error.text(4)}"
        )


class RGBDAutoencoding:
    """Trains ``RGBDAutoencoder(cfg.model)`` towards ``AutoencoderObjective(cfg)``."""

    def __init__(self, cfg: RGBDAutoencoderConfig, rank: int = 0, size: int = 1) -> None:
        self.cfg = cfg
        self.rank, self.size = rank, size
        self.held_out: RGBDBatch | None = None

    @property
    def images_per_step(self) -> int:
        """Pictures."""
        return self.cfg.optim.batch_size

    def share(self, rank: int, size: int) -> RGBDAutoencoding:
        """See ``Task.share``."""
        if size == 1:
            return self
        batch = divided("optim.batch_size", self.cfg.optim.batch_size, size)
        optim = replace(self.cfg.optim, batch_size=batch)
        mine = replace(self.cfg, optim=optim, run=share_run(self.cfg.run, rank))
        return RGBDAutoencoding(mine, rank, size)

    def check(self) -> None:
        """See ``check_autoencoder_run``."""
        check_autoencoder_run(self.cfg)

    def build_model(self) -> RGBDAutoencoder:
        """``RGBDAutoencoder(cfg.model)``, random or with ``cfg.run.init``, which must fit it.

        Raises:
            CheckpointError: no such weights, or weights of another architecture.
        """
        if not self.cfg.run.init:
            return RGBDAutoencoder(self.cfg.model)
        weights = RGBDAutoencoder.from_pretrained(self.cfg.run.init).state_dict()
        return RGBDAutoencoder.from_tensors(self.cfg.model, weights)

    def build_objective(self, device: torch.device) -> AutoencoderObjective:
        """Both sides of the game."""
        return AutoencoderObjective(self.cfg, device)

    def batches(self, device: torch.device | str) -> Callable[[int], RGBDBatch]:
        """See ``scene_batch``."""
        return partial(rank_batch, self.cfg.stream(), self.rank, self.size)

    def validate(self, model: Any) -> Report:
        """Reconstruct held-out pictures; the score is the PSNR of their colours."""
        if self.held_out is None:
            self.held_out = held_out_pictures(self.cfg.stream())
        held = self.held_out
        images, depth = reconstructed(model, held)
        scores = AutoencoderScores(
            pictures=len(images),
            psnr=mean_of(psnr(images, held.images)),
            depth_error=mean_of((depth - held.depth).abs().mean((1, 2, 3))),
        )
        return Report(
            score=scores.psnr.mean,
            scalars={"psnr": scores.psnr.mean, "depth_error": scores.depth_error.mean},
            table=scores.table(),
            content=scores,
            picture=grid(
                [held.images, images, held.depth, depth],
            ),
        )


def rank_batch(cfg: G3DRConfig, rank: int, size: int, step: int) -> RGBDBatch:
    """One process's part of a step: with smaller batches, as many times as many of them."""
    return scene_batch(cfg, step * size + rank)


def held_out_pictures(cfg: G3DRConfig) -> RGBDBatch:
    """``run.validation_objects`` pictures that training never sees.

    Raises:
        RGBDError: the set's pictures cannot be read.
    """
    return SceneSet.make(replace(cfg, run=replace(cfg.run, validation_views=0))).batch


def mean_of(values: Tensor) -> Estimate:
    """The mean of ``(n,)``, n >= 1, with its interval."""
    found = estimate(values[:, None], torch.ones(len(values), 1, dtype=torch.bool))
    assert found is not None
    return found


@torch.no_grad()
def reconstructed(model: RGBDAutoencoder, pictures: RGBDBatch) -> tuple[Tensor, Tensor]:
    """Pictures and depth after the autoencoder, on the CPU; its mode is left as it was."""
    device, was_training = model.last_layer.device, model.training
    model.eval()
    parts = [
        model(image.to(device), depth.to(device))
        for image, depth in zip(
            pictures.images.split(CHUNK), pictures.depth.split(CHUNK), strict=True
        )
    ]
    model.train(was_training)
    images, depth = (torch.cat([part[k] for part in parts]).float().cpu() for k in (0, 1))
    return images, depth


def grid(columns: list[Tensor], rows: int = ROWS) -> Tensor:
    """Pictures ``(n, 3 or 1, S, S)`` side by side, one row for each n: ``(3, rows S, c S)``."""
    parts = [column[:rows].cpu().expand(-1, 3, -1, -1) for column in columns]
    side_by_side = torch.cat(parts, dim=3)
    return torch.cat(list(side_by_side), dim=1)
