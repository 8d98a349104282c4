"""Known views and single pictures together (Real3D, section 4.1, after Eq. 10)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import Config
from ..data.batches import TrainingBatch
from ..models.lrm import LRM
from .self_training import SelfTraining
from .supervised import Supervised


class Joint:
    """L_RECON on the known views plus L_SELF on the single pictures, where a batch has some.

    Args:
        cfg: see ``Supervised`` and ``SelfTraining``.
        device: where the networks that judge pictures are to work.
    """

    def __init__(self, cfg: Config, device: torch.device | str = "cpu") -> None:
        self.supervised = Supervised(cfg, device)
        self.self_training = SelfTraining(cfg, device) if cfg.self_training.photos else None

    def __call__(
        self, model: LRM, batch: TrainingBatch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar with gradient) and detached scalars to log, without a host sync."""
        loss, metrics = self.supervised(model, batch.known, step)
        if self.self_training is None or batch.photos is None:
            return loss, metrics
        other, more = self.self_training(model, batch.photos, step)
        total = loss + other
        return total, {**metrics, **more, "loss": total.detach()}
