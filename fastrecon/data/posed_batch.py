"""Objects with posed pictures as training batches, and some of them held out."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import camera_rays, camera_vector, orbit_c2w, pixel_rays, view_angle
from ..config import Config
from ..images import on_background
from .batches import Batch, ValidationSet
from .choice import drawn, parted
from .posed import Collection, CollectionError, PosedViews, open_collection

WHITE = 1.0
FOCUS_SHARE = 0.75
"""Share of a view's random rays that pass through the object's bounding box."""
HELD_OUT_SHARE = 0.1
"""Most of a collection that validation takes away from training."""
HELD_OUT_MOST = 256
"""Most objects that validation takes away. What a run may change between two starts, such as the
number that it validates on, must not change what it learns from."""
_STREAM = 4  # of random numbers; see photo_batch


@lru_cache(maxsize=2)
def _opened(path: str) -> Collection:
    return open_collection(path, intrinsics="measured")


def posed_batch(cfg: Config, step: int) -> Batch:
    """The batch of a step out of ``cfg.data.multiview``: a function of ``(cfg, step)``.

    Of every object ``cfg.data.views`` random views, the first of which is the input: poses are
    relative to it, and scaled so that its camera stands at the model's (or ``data``'s) distance. A
    pose-conditioned model is told the input camera instead, and the set's scale stays.
    Rays pass through pixel centres, at random or of whole pictures (``data.picture_size``). Depth
    is not known and 0. Objects come in shuffled epochs, those of the validation never.

    Raises:
        CollectionError: the collection cannot be read; the message names the file.
    """
    objects = _opened(cfg.data.multiview)
    training = _split(cfg, objects)[1]
    rng = np.random.default_rng([cfg.data.seed, _STREAM, step])
    size = cfg.optim.batch_size
    order = drawn(cfg.data.seed, step * size, size, len(training))
    sets = [_views(cfg, objects, training[i], rng) for i in order]
    parts = [_object_batch(cfg, views, rng) for views in sets]
    return Batch(
        *(torch.stack(tensors) for tensors in zip(*parts, strict=True)),
        picture_size=cfg.data.picture_size,
        cameras=_cameras(cfg, sets),
    )


def posed_validation(cfg: Config, n_objects: int, n_views: int, size: int) -> ValidationSet:
    """Held-out objects of ``cfg.data.multiview``, at most a tenth of it, with random views each.

    Fewer objects than asked for are given where the collection is small; views are repeated where
    an object has few.
    """
    objects = _opened(cfg.data.multiview)
    sets = []
    for index in _split(cfg, objects)[0][:n_objects]:
        rng = np.random.default_rng([cfg.data.seed, _STREAM, 0, index])
        sets.append(_views(cfg, objects, index, rng, n_views + 1))
    canonical = orbit_c2w(0.0, 0.0, 1.0)
    c2w = torch.stack([views.c2w[1:].float() for views in sets])
    return ValidationSet(
        images=torch.stack([_input(cfg, views) for views in sets]),
        c2w=c2w,
        rgb=torch.stack([on_background(_reduced(v.rgba[1:], size), WHITE) for v in sets]),
        angles=view_angle(c2w, canonical),
        fov_deg=torch.stack([views.fov_deg[1:].float() for views in sets]),
        cameras=_cameras(cfg, sets),
    )


def posed_mean_image(cfg: Config, size: int, n_objects: int = 256) -> Tensor:
    """The mean (3, size, size) of training objects' pictures on white, one random view of each."""
    objects = _opened(cfg.data.multiview)
    rng = np.random.default_rng([cfg.data.seed, _STREAM])
    total = torch.zeros(3, size, size)
    chosen = _split(cfg, objects)[1][:n_objects]
    for index in chosen:
        views = objects.views(index, [int(rng.integers(objects.n_views(index)))])
        total += on_background(_reduced(views.rgba, size), WHITE)[0]
    return total / len(chosen)


def _split(cfg: Config, objects: Collection) -> tuple[list[int], list[int]]:
    """Objects for validation and for training; the same in every run of a seed."""
    count = len(objects)
    if count < 2:
        raise CollectionError(
            f"{cfg.data.multiview} holds {count} objects; training needs at least two, one of them "
            "for validation"
        )
    order = parted(cfg.data.seed, count, 1.0)
    held_out = max(1, min(HELD_OUT_MOST, int(HELD_OUT_SHARE * count)))
    return order[:held_out], order[held_out:]


def _views(
    cfg: Config,
    objects: Collection,
    index: int,
    rng: np.random.Generator,
    count: int | None = None,
) -> PosedViews:
    """Random views of an object, relative to the first of them."""
    count = cfg.data.views if count is None else count
    known = objects.n_views(index)
    if not known:
        raise CollectionError(f"{objects.names[index]} has no views; remove it from the set")
    which = rng.permutation(known)[:count]
    if len(which) < count:  # the input is not repeated unless it is all there is
        others = which[1:] if known > 1 else which
        which = np.concatenate([which, rng.choice(others, count - len(which))])
    views = objects.views(index, [int(i) for i in which])
    distance = cfg.data.camera_distance or cfg.model.camera_distance
    if _is_told(cfg):
        distance = float(views.c2w[0, :3, 3].norm())
    return views.relative_to(0, distance)


def _is_told(cfg: Config) -> bool:
    """Whether the model takes the input camera."""
    return cfg.model.backbone.conditioning != "none"


def _cameras(cfg: Config, sets: list[PosedViews]) -> Tensor | None:
    """The input cameras (B, 16), for a model that is told."""
    if not _is_told(cfg):
        return None
    return torch.stack(
        [camera_vector(views.c2w[0].float(), float(views.fov_deg[0])) for views in sets]
    )


def _object_batch(cfg: Config, views: PosedViews, rng: np.random.Generator) -> tuple[Tensor, ...]:
    """The fields of a ``Batch`` for one object, without the leading dimension."""
    c2w, fov = views.c2w.float(), views.fov_deg.float()
    size = cfg.data.picture_size
    if size:
        picture = _reduced(views.rgba, size)
        rays_o, rays_d = (x.flatten(1, 2) for x in camera_rays(c2w, size, size, fov))
        values = picture.flatten(2)
    else:
        height, width = views.rgba.shape[-2:]
        x, y = _pixels(views.rgba[:, 3].numpy(), cfg.data.rays_per_view, rng)
        centres = torch.stack([x + 0.5, y + 0.5], dim=-1).float()
        rays_o, rays_d = pixel_rays(c2w, centres, height, width, fov)
        flat = _premultiplied(views.rgba).flatten(2)
        values = flat.gather(2, (y * width + x)[:, None].expand(-1, 4, -1))
    colour, alpha = values[:, :3], values[:, 3]
    rgb = (colour + WHITE * (1.0 - alpha[:, None])).transpose(1, 2)
    return (
        _input(cfg, views),
        rays_o.contiguous(),
        rays_d.contiguous(),
        rgb.contiguous(),
        alpha,
        torch.zeros_like(alpha),
    )


def _pixels(alpha: np.ndarray, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Columns and rows (V, R) of random pixels, most of them in the object's bounding box."""
    views, height, width = alpha.shape
    low, high = np.zeros((views, 1, 2)), np.full((views, 1, 2), (width, height), float)
    for view, mask in enumerate(alpha > 0):
        if mask.any():
            columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            low[view, 0] = columns[0], rows[0]
            high[view, 0] = columns[-1] + 1, rows[-1] + 1
    aimed = (np.arange(count) < round(FOCUS_SHARE * count))[:, None]
    low = np.where(aimed, low, 0.0)
    high = np.where(aimed, high, (width, height))
    at = np.floor(low + (high - low) * rng.random((views, count, 2))).astype(np.int64)
    return torch.from_numpy(at[..., 0]), torch.from_numpy(at[..., 1])


def _input(cfg: Config, views: PosedViews) -> Tensor:
    """What the model reads (3, S, S): the first view, on grey."""
    picture = _reduced(views.rgba[:1], cfg.model.encoder.image_size)
    return on_background(picture, cfg.model.input_background)[0]


def _premultiplied(rgba: Tensor) -> Tensor:
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)


def _reduced(rgba: Tensor, size: int) -> Tensor:
    """Straight RGBA (V, 4, H, W) to premultiplied (V, 4, size, size)."""
    return F.interpolate(
        _premultiplied(rgba), (size, size), mode="bilinear", align_corners=False, antialias=True
    )
