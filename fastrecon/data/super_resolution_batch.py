"""Pictures at two sizes: photographs out of folders, or procedural scenes without end.

The smaller picture is the larger one, halved as f_trigen's own input is: bilinear, antialiased.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.super_resolution import SuperResolutionConfig
from ..errors import ImageError
from ..images import load_image
from .choice import drawn, parted
from .procedural.scenes import rgbd_scenes
from .rgbd import DEPTH, ENDINGS

HELD_OUT = 2**40
"""First index of the procedural scenes that training never sees."""
HELD_OUT_SHARE = 0.1
"""Most of a folder that validation takes away from training."""
KEPT = 512
"""Scenes that stay in memory, for runs that see them again."""
TRIES = 8
"""Pictures in a row that may be unusable before a run gives up."""
_STREAM = 7  # of random numbers


@dataclass
class PicturePairs:
    """B pictures at two sizes."""

    low: Tensor  # (B, 3, s, s) in [0, 1]
    high: Tensor  # (B, 3, 2s, 2s) in [0, 1]

    def to(self, device: torch.device | str) -> PicturePairs:
        """The same pictures on another device."""
        return PicturePairs(self.low.to(device), self.high.to(device))


def halved(pictures: Tensor) -> Tensor:
    """Pictures ``(N, 3, 2s, 2s)`` at half the side."""
    return F.interpolate(
        pictures, scale_factor=0.5, mode="bilinear", align_corners=False, antialias=True
    ).clamp(0.0, 1.0)


@lru_cache(maxsize=4)
def picture_files(path: str) -> tuple[Path, ...]:
    """The pictures of a folder and its subfolders, without depth, in order of their names.

    Raises:
        ValueError: no folder, or fewer than two pictures in it.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"data.path: {root} is no folder; give one with pictures")
    found = sorted(
        p
        for p in root.rglob("*")
        if p.suffix.lower() in ENDINGS and not p.name.endswith(DEPTH) and p.is_file()
    )
    if len(found) < 2:
        raise ValueError(
            f"data.path: {root} holds {len(found)} pictures ({', '.join(ENDINGS)}); training "
            "needs at least two, one of them for validation"
        )
    return tuple(found)


def split(cfg: SuperResolutionConfig) -> tuple[list[Path], list[Path]]:
    """Pictures of ``cfg.data.path`` for validation and for training, the same for a seed."""
    files = picture_files(cfg.data.path)
    order = [files[i] for i in parted(cfg.data.seed, len(files), 1.0)]
    count = max(1, min(cfg.run.validation_objects, int(HELD_OUT_SHARE * len(files))))
    return order[:count], order[count:]


def picture_pairs(cfg: SuperResolutionConfig, step: int) -> PicturePairs:
    """The crops of a step: a function of ``(cfg, step)``.

    Raises:
        ValueError: the folder holds no usable pictures.
    """
    data, count = cfg.data, cfg.optim.batch_size
    if data.path:
        training = split(cfg)[1]
        places = drawn(data.seed, step * count, count, len(training))
        pictures = [_usable(training, place, data.size) for place in places]
        high = torch.stack(pictures)
    else:
        first = step * count
        chosen = range(first, first + count)
        high = scene_pictures(
            cfg, drawn(data.seed, first, count, data.scenes) if data.scenes else chosen
        )
    rng = np.random.default_rng([data.seed, _STREAM, step])
    flips = torch.from_numpy(rng.random(count) < data.flip)[:, None, None, None]
    high = torch.where(flips, high.flip(-1), high)
    low = halved(high)
    patch = data.patch or data.size // 2
    corners = rng.integers(data.size // 2 - patch, size=(count, 2), endpoint=True)
    return PicturePairs(_cropped(low, corners, patch), _cropped(high, 2 * corners, 2 * patch))


def held_out_pairs(cfg: SuperResolutionConfig) -> PicturePairs:
    """Whole pictures that training never sees.

    Raises:
        ValueError: one of the folder's cannot be read.
    """
    if cfg.data.path:
        high = torch.stack([squared_picture(path, cfg.data.size) for path in split(cfg)[0]])
    else:
        high = scene_pictures(cfg, range(HELD_OUT, HELD_OUT + cfg.run.validation_objects))
    return PicturePairs(halved(high), high)


def scene_pictures(cfg: SuperResolutionConfig, indices: Sequence[int]) -> Tensor:
    """Procedural scenes ``(N, 3, size, size)`` from the front."""
    data = cfg.data
    return torch.stack([_scene(data.seed, i, data.size, data.max_parts) for i in indices])


@lru_cache(maxsize=KEPT)
def _scene(seed: int, index: int, size: int, max_parts: int) -> Tensor:
    return rgbd_scenes(seed, [index], size, max_parts=max_parts).images[0, 0]


def squared_picture(path: Path, size: int) -> Tensor:
    """The middle square of a picture file, ``(3, size, size)``; clear pixels are white.

    Raises:
        ImageError: missing or damaged.
    """
    rgba = torch.from_numpy(load_image(path)).permute(2, 0, 1)
    rgb = rgba[:3] * rgba[3:] + 1 - rgba[3:]
    height, width = rgb.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = rgb[None, :, top : top + side, left : left + side]
    resized = F.interpolate(
        square, (size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0].clamp(0.0, 1.0)


def _cropped(pictures: Tensor, corners: np.ndarray, side: int) -> Tensor:
    return torch.stack(
        [
            picture[:, y : y + side, x : x + side]
            for picture, (y, x) in zip(pictures, corners.tolist(), strict=True)
        ]
    )


def _usable(files: list[Path], place: int, size: int) -> Tensor:
    """The picture at a place, or the next that can be used."""
    reason: ImageError | None = None
    for ahead in range(min(TRIES, len(files))):
        try:
            return squared_picture(files[(place + ahead) % len(files)], size)
        except ImageError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            reason = error
    raise ValueError(f"no usable picture among {TRIES} in a row; the last: {reason}")
