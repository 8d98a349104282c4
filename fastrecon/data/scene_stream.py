"""Batches of pictures with depth: from files, or procedural scenes without end."""

from __future__ import annotations

import numpy as np
import torch

from ..config.g3dr import G3DRConfig
from .procedural.scenes import rgbd_scenes
from .rgbd import RGBDBatch, rgbd_batch

_STREAM = 6  # of random numbers


def scene_batch(cfg: G3DRConfig, step: int) -> RGBDBatch:
    """The batch of a step: a function of ``(cfg, step)``.

    Without ``cfg.data.path``: the procedural scenes ``step * batch_size`` and on.
    """
    if cfg.data.path:
        return rgbd_batch(cfg, step)
    count, camera = cfg.optim.batch_size, cfg.model.camera
    seen = rgbd_scenes(
        cfg.data.seed,
        range(step * count, (step + 1) * count),
        cfg.model.size,
        camera,
        max_parts=cfg.data.max_parts,
    )
    rng = np.random.default_rng([cfg.data.seed, _STREAM, step])
    flips = torch.from_numpy(rng.random(count) < cfg.data.flip)[:, None, None, None]
    images, depth = seen.images[:, 0], seen.depth(camera)[:, 0]
    return RGBDBatch(
        torch.where(flips, images.flip(-1), images),
        torch.where(flips, depth.flip(-1), depth),
        torch.zeros(count, dtype=torch.long),
    )
