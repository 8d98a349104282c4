"""Super-resolution: an ``RCAN`` on pictures at two sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config.super_resolution import SuperResolutionConfig, check_super_resolution_config
from ..data.super_resolution_batch import PicturePairs, held_out_pairs, picture_pairs
from ..evaluation.estimates import Estimate, estimate
from ..evaluation.metrics import psnr
from ..models.super_resolution import RCAN, bicubic, upscale
from .task import Report, divided, share_run

SHOWN = 6
"""Pictures in the grid."""


@dataclass(frozen=True)
class EnlargedScores:
    """PSNR of held-out pictures, dB, means with 95% intervals."""

    pictures: int
    psnr: Estimate
    bicubic: Estimate
    gain: Estimate
    """Over bicubic, picture by picture."""

    def table(self) -> str:
        """The result for a terminal."""
        return (
            f"PSNR {self.psnr.text()} dB, bicubic {self.bicubic.text()} dB, gain "
            f"{self.gain.text(signed=True)} dB on {self.pictures} pictures"
        )


class SuperResolution:
    """Trains ``RCAN(cfg.model)`` towards the larger picture (L1, as RCAN's authors do)."""

    def __init__(self, cfg: SuperResolutionConfig, rank: int = 0, size: int = 1) -> None:
        self.cfg = cfg
        self.rank, self.size = rank, size
        self.held_out: PicturePairs | None = None

    @property
    def images_per_step(self) -> int:
        """Crops."""
        return self.cfg.optim.batch_size

    def share(self, rank: int, size: int) -> SuperResolution:
        """See ``Task.share``."""
        if size == 1:
            return self
        batch = divided("optim.batch_size", self.cfg.optim.batch_size, size)
        mine = replace(
            self.cfg,
            optim=replace(self.cfg.optim, batch_size=batch),
            run=share_run(self.cfg.run, rank),
        )
        return SuperResolution(mine, rank, size)

    def check(self) -> None:
        """See ``check_super_resolution_config``."""
        check_super_resolution_config(self.cfg)

    def build_model(self) -> RCAN:
        """``RCAN(cfg.model)``, random or with the weights of ``cfg.run.init``, which must fit it.

        Raises:
            CheckpointError: no such weights, or weights of another architecture.
        """
        if not self.cfg.run.init:
            return RCAN(self.cfg.model)
        weights = RCAN.from_pretrained(self.cfg.run.init).state_dict()
        return RCAN.from_tensors(self.cfg.model, weights)

    def build_objective(self, device: torch.device) -> PictureL1:
        """L1."""
        return PictureL1(self.cfg.optim.precision == "bf16")

    def batches(self, device: torch.device | str) -> Callable[[int], PicturePairs]:
        """See ``picture_pairs``."""
        return partial(_batch, self.cfg, self.rank, self.size)

    def validate(self, model: Any) -> Report:
        """Enlarge held-out pictures; the score is their PSNR."""
        if self.held_out is None:
            self.held_out = held_out_pairs(self.cfg)
        pairs, was_training = self.held_out, model.training
        model.eval()
        made = upscale(pairs.low, model=model)
        model.train(was_training)
        plain = upscale(pairs.low)
        ours, theirs = psnr(made, pairs.high), psnr(plain, pairs.high)
        scores = EnlargedScores(len(made), *map(_mean, (ours, theirs, ours - theirs)))
        return Report(
            score=scores.psnr.mean,
            scalars={
                "psnr": scores.psnr.mean,
                "psnr_bicubic": scores.bicubic.mean,
                "gain": scores.gain.mean,
            },
            table=scores.table(),
            content=scores,
            picture=torch.cat([_column(x) for x in (plain, made, pairs.high)], dim=2),
        )


class PictureL1:
    """Mean absolute difference to the larger picture."""

    def __init__(self, bf16: bool) -> None:
        self.bf16 = bf16

    def __call__(
        self, model: RCAN, batch: PicturePairs, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar with gradient) and detached scalars to log, without a host sync."""
        with torch.autocast(batch.low.device.type, torch.bfloat16, enabled=self.bf16):
            made = model(batch.low)
        loss = (made.float() - batch.high).abs().mean()
        plain = (bicubic(batch.low) - batch.high).abs().mean()
        return loss, {"loss": loss.detach(), "loss_bicubic": plain}


def _mean(values: Tensor) -> Estimate:
    found = estimate(values[:, None], torch.ones(len(values), 1, dtype=torch.bool))
    assert found is not None
    return found


def _column(pictures: Tensor) -> Tensor:
    return torch.cat(list(pictures[:SHOWN]), dim=1)


def _batch(cfg: SuperResolutionConfig, rank: int, size: int, step: int) -> PicturePairs:
    """One process's part of a step: with smaller batches, as many times as many of them."""
    return picture_pairs(cfg, step * size + rank)
