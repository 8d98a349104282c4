"""The endless stream of training batches, and the fixed sets that runs are judged on.

Every object stands as ``fastrecon reconstruct`` would place a photograph of it: seen by the
canonical camera, its silhouette's bounding square is centred and fills the configured share of the
picture. A batch is a function of the configuration and its step alone, so a resumed run sees what
it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..cameras import camera_rays, focal_length, orbit_c2w, pixel_rays, sample_orbits, view_angle
from ..config import Config
from .batches import Batch, ValidationSet
from .procedural import ProceduralObjects
from .procedural.scene import Scene

WHITE = 1.0
HELD_OUT = 2**40
"""First index of the validation objects; training would need a trillion objects to reach it."""
REACH = 0.92
"""Share of the planes' half side that objects stay within, as a distance from the origin."""
RATIO_JITTER = 0.08
"""The foreground ratio varies by this share, as croppings do."""
OFFSET_JITTER = 0.02
"""The object's place varies by this share of the picture's side, each way."""
FOCUS_SHARE = 0.75
"""Share of a view's rays that are aimed at the object; the others go anywhere in the picture."""
FOCUS_MARGIN = 1.1
"""Aimed rays fall into the silhouette's bounding square grown by this factor."""
_STEPS, _VALIDATION, _MEAN = range(3)  # separate random streams


def procedural_batch(cfg: Config, step: int, device: torch.device | str = "cpu") -> Batch:
    """The training batch of a step: a function of ``(cfg, step)``.

    Objects ``step * batch_size`` and on, ``cfg.data.views`` views each: the input view, then
    random orbits at the same distance, elevations -30 to 60 degrees. Rays pass through random
    points of the picture, ``FOCUS_SHARE`` of them near the object; their colours are point samples.
    With ``cfg.data.picture_size`` they are those of whole pictures of that side.
    Objects are made and traced on ``device``.
    """
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    if cfg.data.views < 1 or cfg.data.rays_per_view < 0:
        raise ValueError(
            "a batch needs data.views >= 1 and data.rays_per_view >= 0, got "
            f"{cfg.data.views} and {cfg.data.rays_per_view}"
        )
    size, rng = cfg.optim.batch_size, _random(cfg, _STEPS, step)
    scene = _placed(cfg, range(step * size, (step + 1) * size), rng, device)
    orbits = _orbits(cfg, rng, size, cfg.data.views - 1)
    c2w = torch.cat([_canonical(cfg).expand(size, 1, 4, 4), orbits], dim=1)
    if cfg.data.picture_size:
        return _picture_batch(cfg, scene, c2w)
    pixels = _pixels(cfg, scene, c2w, rng)
    side = cfg.model.encoder.image_size
    rays_o, rays_d = (
        x.contiguous() for x in pixel_rays(c2w, pixels, side, side, cfg.model.fov_deg)
    )
    found = scene.trace(rays_o.flatten(1, 2), rays_d.flatten(1, 2))
    shape = rays_d.shape[:3]
    batch = Batch(
        images=_input_images(cfg, scene),
        rays_o=rays_o,
        rays_d=rays_d,
        rgb=(found.rgb + WHITE * (1.0 - found.mask[..., None])).reshape(*shape, 3),
        mask=found.mask.reshape(shape),
        depth=found.depth.reshape(shape),
    )
    return batch.to(scene.device)


def _picture_batch(cfg: Config, scene: Scene, c2w: Tensor) -> Batch:
    """Whole pictures; depth is the mean over a pixel's covered samples."""
    size, fov = cfg.data.picture_size, cfg.model.fov_deg
    found = scene.render(c2w, size, fov, cfg.data.supersample)
    rays_o, rays_d = (x.flatten(2, 3).contiguous() for x in camera_rays(c2w, size, size, fov))
    colour, alpha = found.rgba[:, :, :3], found.rgba[:, :, 3:]
    batch = Batch(
        images=_input_images(cfg, scene),
        rays_o=rays_o,
        rays_d=rays_d,
        rgb=(colour * alpha + WHITE * (1.0 - alpha)).flatten(3).transpose(2, 3).contiguous(),
        mask=alpha[:, :, 0].flatten(2),
        depth=found.depth.flatten(2),
        picture_size=size,
    )
    return batch.to(scene.device)


def validation_set(cfg: Config, n_objects: int, n_views: int, size: int) -> ValidationSet:
    """Held-out objects and views, the same in every run with this ``cfg.data.seed``.

    Args:
        cfg: the run's configuration; objects stand without jitter.
        n_objects, n_views: at least one each.
        size: side of the target pictures, pixels.

    Views are random orbits like those of training; about a fifth look at most 45 degrees away from
    the input view.
    """
    if n_objects < 1 or n_views < 1:
        raise ValueError(
            "a validation set needs at least one object and one view, got "
            f"{n_objects} and {n_views}"
        )
    scene = _placed(cfg, range(HELD_OUT, HELD_OUT + n_objects))
    c2w = _orbits(cfg, _random(cfg, _VALIDATION), n_objects, n_views)
    return ValidationSet(
        images=_input_images(cfg, scene),
        c2w=c2w,
        rgb=scene.render_on(WHITE, c2w, size, cfg.model.fov_deg, cfg.data.supersample),
        angles=view_angle(c2w, _canonical(cfg)),
        fov_deg=torch.full(c2w.shape[:2], cfg.model.fov_deg),
    )


def mean_image(cfg: Config, size: int, n_objects: int = 256) -> Tensor:
    """The mean (3, size, size) of training objects' pictures on white, one random view of each.

    What a model that ignores its input would best answer: the baseline of the validation.
    """
    if n_objects < 1:
        raise ValueError(f"a mean needs at least one object, got {n_objects}")
    rng = _random(cfg, _MEAN)
    scene = _placed(cfg, range(n_objects), rng)
    c2w = _orbits(cfg, rng, n_objects, 1)
    pictures = scene.render_on(WHITE, c2w, size, cfg.model.fov_deg, cfg.data.supersample)
    return pictures.mean(dim=(0, 1))


def _random(cfg: Config, *stream: int) -> np.random.Generator:
    return np.random.default_rng([cfg.data.seed, *stream])


def _canonical(cfg: Config) -> Tensor:
    return orbit_c2w(0.0, 0.0, cfg.model.camera_distance)


def _orbits(cfg: Config, rng: np.random.Generator, n_objects: int, n_views: int) -> Tensor:
    """Random cameras of the training distribution, (n_objects, n_views, 4, 4)."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    azimuth, elevation = sample_orbits(generator, n_objects * n_views)
    c2w = orbit_c2w(azimuth, elevation, cfg.model.camera_distance)
    return c2w.reshape(n_objects, n_views, 4, 4)


def _placed(
    cfg: Config,
    indices: Sequence[int],
    jitter: np.random.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Scene:
    """Objects where a prepared photograph would have them, give or take the jitter."""
    model = cfg.model
    max_reach = REACH * model.render.radius
    if model.camera_distance <= max_reach:
        raise ValueError(
            f"camera_distance must exceed {max_reach:.3g}, how far objects may reach from the "
            f"origin (render.radius {model.render.radius}); got {model.camera_distance}"
        )
    n = len(indices)
    ratio, offset = np.full(n, model.foreground_ratio), np.zeros((n, 2))
    if jitter is not None:
        ratio = ratio * jitter.uniform(1 - RATIO_JITTER, 1 + RATIO_JITTER, n)
        ratio = np.minimum(ratio, 1 - 2 * OFFSET_JITTER)  # never cut by the frame
        offset = jitter.uniform(-OFFSET_JITTER, OFFSET_JITTER, (n, 2))
    tangent = math.tan(math.radians(model.fov_deg) / 2)
    half_side, offset = (
        torch.from_numpy(x.astype(np.float32)).to(device)
        for x in (ratio * tangent, 2 * offset * tangent)
    )
    objects = ProceduralObjects(cfg.data.seed, cfg.data.max_parts, device).batch(indices)
    return objects.fitted(model.camera_distance, half_side, offset, max_reach)


def _input_images(cfg: Config, scene: Scene) -> Tensor:
    c2w = _canonical(cfg).expand(len(scene), 1, 4, 4)
    side, supersample = cfg.model.encoder.image_size, cfg.data.supersample
    return scene.render_on(cfg.model.input_background, c2w, side, cfg.model.fov_deg, supersample)[
        :, 0
    ]


def _pixels(cfg: Config, scene: Scene, c2w: Tensor, rng: np.random.Generator) -> Tensor:
    """Positions (B, V, R, 2) in the pictures, most of them near the object's silhouette."""
    side, n_rays = cfg.model.encoder.image_size, cfg.data.rays_per_view
    focal = focal_length(side, cfg.model.fov_deg)
    x, y, half = (focal * scene.squares(c2w)).cpu().numpy()[..., None, :].transpose(3, 0, 1, 2)
    centre = side / 2 + np.stack([x, -y], axis=-1)
    half = FOCUS_MARGIN * half[..., None]
    low, high = np.clip(centre - half, 0, side), np.clip(centre + half, 0, side)
    aimed = (np.arange(n_rays) < round(FOCUS_SHARE * n_rays))[:, None]
    low, high = np.where(aimed, low, 0.0), np.where(aimed, high, side)
    u = rng.random((*c2w.shape[:2], n_rays, 2))
    return torch.from_numpy((low + (high - low) * u).astype(np.float32))
