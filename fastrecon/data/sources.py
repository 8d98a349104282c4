"""Where a run's batches come from: known views, and single pictures beside them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import Config
from . import stream
from .batches import TrainingBatch, ValidationSet


def training_batch(cfg: Config, step: int, device: torch.device | str = "cpu") -> TrainingBatch:
    """All that a step learns from: a function of ``(cfg, step)``.

    Procedural objects are made on ``device``; pictures from files come on the CPU.
    """
    if cfg.data.multiview:
        from .posed_batch import posed_batch

        known = posed_batch(cfg, step)
    else:
        known = stream.procedural_batch(cfg, step, device)
    if not cfg.self_training.photos:
        return TrainingBatch(known)
    from .photo_batch import photo_batch

    return TrainingBatch(known, photo_batch(cfg, step))


def validation_set(cfg: Config, n_objects: int, n_views: int, size: int) -> ValidationSet:
    """Objects that training never sees, of the kind whose views are known to it."""
    if cfg.data.multiview:
        from .posed_batch import posed_validation

        return posed_validation(cfg, n_objects, n_views, size)
    return stream.validation_set(cfg, n_objects, n_views, size)


def mean_image(cfg: Config, size: int) -> Tensor:
    """The mean (3, size, size) of training pictures: what to answer without looking."""
    if cfg.data.multiview:
        from .posed_batch import posed_mean_image

        return posed_mean_image(cfg, size)
    return stream.mean_image(cfg, size)
