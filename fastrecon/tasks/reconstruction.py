"""Single-view reconstruction: an ``LRM`` on known views and single pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..config import Config
from ..config.checks import check_config
from ..data.batches import TrainingBatch
from ..data.sources import training_batch
from ..evaluation.validation import HeldOut
from ..models.lrm import LRM
from ..objectives import Joint
from ..progress import picture_grid
from .task import Report, divided, share_run


class Reconstruction:
    """Trains ``LRM(cfg.model)`` towards ``Joint(cfg)``."""

    def __init__(self, cfg: Config, rank: int = 0, size: int = 1) -> None:
        self.cfg = cfg
        self.rank, self.size = rank, size
        self.held_out: HeldOut | None = None

    @property
    def images_per_step(self) -> int:
        """Objects with known views, and photographs."""
        return self.cfg.optim.batch_size + self.cfg.self_training.photos

    def share(self, rank: int, size: int) -> Reconstruction:
        """See ``Task.share``."""
        if size == 1:
            return self
        cfg = self.cfg
        batch = divided("optim.batch_size", cfg.optim.batch_size, size)
        photos = divided("self_training.photos", cfg.self_training.photos, size)
        mine = replace(
            cfg,
            optim=replace(cfg.optim, batch_size=batch),
            self_training=replace(cfg.self_training, photos=photos),
            run=share_run(cfg.run, rank),
        )
        return Reconstruction(mine, rank, size)

    def check(self) -> None:
        """See ``check_config``."""
        check_config(self.cfg)

    def build_model(self) -> LRM:
        """``LRM(cfg.model)``, random or with the weights of ``cfg.run.init``, which must fit it.

        Raises:
            CheckpointError: no such weights, or weights of another architecture.
        """
        if not self.cfg.run.init:
            return LRM(self.cfg.model)
        weights = LRM.from_pretrained(self.cfg.run.init).state_dict()
        return LRM.from_tensors(self.cfg.model, weights)

    def build_objective(self, device: torch.device) -> Joint:
        """Known views and single pictures together."""
        return Joint(self.cfg, device)

    def batches(self, device: torch.device | str) -> Callable[[int], TrainingBatch]:
        """See ``training_batch``."""
        return partial(_batch, self.cfg, self.rank, self.size, device)

    def validate(self, model: Any) -> Report:
        """Score held-out views; the score is the PSNR of all novel ones."""
        if self.held_out is None:
            self.held_out = HeldOut.make(self.cfg)
        held = self.held_out
        rendered = held.render(model, bf16=self.cfg.optim.precision == "bf16")
        result = held.score(rendered)
        return Report(
            score=result.all.psnr,
            scalars=result.scalars(),
            table=result.table(),
            content=result,
            picture=picture_grid(held.images, held.pictures, rendered),
        )


def _batch(
    cfg: Config, rank: int, size: int, device: torch.device | str, step: int
) -> TrainingBatch:
    """One process's part of a step: with smaller batches, as many times as many of them."""
    return training_batch(cfg, step * size + rank, device)
