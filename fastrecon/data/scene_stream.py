"""Batches of pictures with depth: from files, or procedural scenes without end."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from ..config.g3dr import G3DRConfig, SceneCameraConfig
from .procedural.scenes import rgbd_scenes
from .rgbd import RGBDBatch, rgbd_batch

_STREAM = 6  # of random numbers


def scene_batch(cfg: G3DRConfig, step: int) -> RGBDBatch:
    """The batch of a step: a function of ``(cfg, step)``.

    Without ``cfg.data.path``: the procedural scenes ``step * batch_size`` and on, modulo
    ``cfg.data.scenes``.
    """
    if cfg.data.path:
        return rgbd_batch(cfg, step)
    data, count = cfg.data, cfg.optim.batch_size
    indices = range(step * count, (step + 1) * count)
    if data.scenes:
        looks = (data.seed, cfg.model.size, cfg.model.camera, data.max_parts)
        kept = [_scene(index % data.scenes, *looks) for index in indices]
        images, depth = (torch.stack(x) for x in zip(*kept, strict=True))
    else:
        images, depth = _scenes(
            indices, data.seed, cfg.model.size, cfg.model.camera, data.max_parts
        )
    rng = np.random.default_rng([data.seed, _STREAM, step])
    flips = torch.from_numpy(rng.random(count) < data.flip)[:, None, None, None]
    return RGBDBatch(
        torch.where(flips, images.flip(-1), images),
        torch.where(flips, depth.flip(-1), depth),
        torch.zeros(count, dtype=torch.long),
    )


def _scenes(
    indices: Sequence[int], seed: int, size: int, camera: SceneCameraConfig, max_parts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (B, 3, S, S) and depth (B, 1, S, S) of procedural scenes."""
    seen = rgbd_scenes(seed, indices, size, camera, max_parts=max_parts)
    return seen.images[:, 0], seen.depth(camera)[:, 0]


@functools.cache
def _scene(
    index: int, seed: int, size: int, camera: SceneCameraConfig, max_parts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One of `_scenes`, made once: 16 KB at 32 pixels."""
    images, depth = _scenes([index], seed, size, camera, max_parts)
    return images[0], depth[0]
