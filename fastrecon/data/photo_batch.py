"""Single pictures as training input, out of a folder or shards."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..images import Pixels, framed
from .choice import drawn, parted
from .posed import OBJECT_ALPHA, CollectionError, PhotoSet, open_photos

TRIES = 8
"""Pictures in a row that may be unusable before a run gives up."""
_STREAM = 3  # of random numbers; those of the procedural stream are smaller


@lru_cache(maxsize=2)
def _opened(path: str) -> PhotoSet:
    return open_photos(path)


def photo_batch(cfg: Config, step: int) -> Tensor:
    """The single pictures of a step ``(P, 4, S, S)``: a function of ``(cfg, step)``.

    P is ``cfg.self_training.photos`` and S the side that the model reads. Objects are centred and
    fill ``1 / crop_ratio`` of the side, drawn anew every time; colours are multiplied by alpha.
    Pictures come in shuffled epochs. One that cannot be used is reported and replaced by another.

    Raises:
        CollectionError: ``cfg.data.photos`` cannot be read, or holds no usable pictures.
    """
    task = cfg.self_training
    photos = _opened(cfg.data.photos)
    chosen = parted(cfg.data.seed, len(photos), cfg.data.photo_share)
    order = drawn(cfg.data.seed, step * task.photos, task.photos, len(chosen))
    ratios = np.random.default_rng([cfg.data.seed, _STREAM, step]).uniform(
        *task.crop_ratio, task.photos
    )
    size = cfg.model.encoder.image_size
    return torch.stack(
        [
            framed(_usable(photos, chosen, place), 1.0 / ratio, size, OBJECT_ALPHA)
            for place, ratio in zip(order, ratios, strict=True)
        ]
    )


def _usable(photos: PhotoSet, chosen: list[int], place: int) -> Pixels:
    """The picture at a place among the chosen ones, or the next that can be used."""
    reason: Exception | None = None
    for ahead in range(min(TRIES, len(chosen))):
        index = chosen[(place + ahead) % len(chosen)]
        try:
            rgba = photos.photo(index)
            check_photo(rgba)
            return rgba
        except (ValueError, OSError) as error:
            warnings.warn(f"left out {photos.names[index]}: {error}", stacklevel=2)
            reason = error
    count = min(TRIES, len(chosen))
    raise CollectionError(
        f"{photos.path} has {count} unusable pictures in a row, the last: {reason}"
    )


def check_photo(rgba: Pixels) -> None:
    """Raise ``ValueError`` for a picture without an object, or without a background."""
    alpha = rgba[..., 3]
    if not bool(np.isfinite(rgba).all()):
        raise ValueError("it has values that are not finite")
    if not bool((alpha > OBJECT_ALPHA).any()):
        raise ValueError("alpha shows no object; save it with its alpha")
    if bool((alpha >= 1.0).all()):
        raise ValueError("alpha shows no background; cut the object out (fastrecon curate)")
