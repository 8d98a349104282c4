"""Scenes from RGB-D: a ``TriGen`` on pictures whose depth is known (G3DR)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..config.g3dr import G3DRConfig
from ..config.g3dr_checks import check_g3dr_config
from ..data.rgbd import RGBDBatch
from ..data.scene_stream import scene_batch
from ..evaluation.scene_validation import SceneSet, judge_scenes, scene_grid
from ..models.trigen import TriGen
from ..objectives.g3dr import G3DRObjective
from .task import Report, divided, share_run


class SceneGeneration:
    """Trains ``TriGen(cfg.model)`` towards ``G3DRObjective(cfg)``."""

    def __init__(
        self, cfg: G3DRConfig, rank: int = 0, size: int = 1, common_seed: int | None = None
    ) -> None:
        self.cfg = cfg
        self.rank, self.size = rank, size
        self.common_seed = cfg.run.seed if common_seed is None else common_seed
        self.held_out: SceneSet | None = None

    @property
    def images_per_step(self) -> int:
        """Pictures."""
        return self.cfg.optim.batch_size

    def share(self, rank: int, size: int) -> SceneGeneration:
        """See ``Task.share``; which view a step looks at is drawn once for all processes."""
        if size == 1:
            return self
        batch = divided("optim.batch_size", self.cfg.optim.batch_size, size)
        mine = replace(
            self.cfg,
            optim=replace(self.cfg.optim, batch_size=batch),
            run=share_run(self.cfg.run, rank),
        )
        return SceneGeneration(mine, rank, size, self.common_seed)

    def check(self) -> None:
        """See ``check_g3dr_config``."""
        check_g3dr_config(self.cfg)

    def build_model(self) -> TriGen:
        """``TriGen(cfg.model)``, random or with the weights of ``cfg.run.init``, which must fit it.

        Raises:
            CheckpointError: no such weights, or weights of another architecture.
        """
        if not self.cfg.run.init:
            return TriGen(self.cfg.model)
        weights = TriGen.from_pretrained(self.cfg.run.init).state_dict()
        return TriGen.from_tensors(self.cfg.model, weights)

    def build_objective(self, device: torch.device) -> G3DRObjective:
        """Canonical and novel views in turn."""
        return G3DRObjective(self.cfg, device, self.common_seed)

    def batches(self, device: torch.device | str) -> Callable[[int], RGBDBatch]:
        """See ``scene_batch``."""
        return partial(_batch, self.cfg, self.rank, self.size)

    def validate(self, model: Any) -> Report:
        """Judge held-out scenes; the score is the PSNR of novel views, or of the input's."""
        if self.held_out is None:
            self.held_out = SceneSet.make(self.cfg)
        was_training = model.training
        model.eval()
        result = judge_scenes(model, self.held_out)
        model.train(was_training)
        scores = result.scores()
        best = scores.novel_psnr or scores.psnr
        return Report(
            score=best.mean,
            scalars=scores.scalars(),
            table=scores.table(),
            content=scores,
            picture=scene_grid(self.held_out, result),
        )


def _batch(cfg: G3DRConfig, rank: int, size: int, step: int) -> RGBDBatch:
    """One process's part of a step: with smaller batches, as many times as many of them."""
    return scene_batch(cfg, step * size + rank)
