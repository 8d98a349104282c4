"""Videos of scenes: a camera on an ellipse in front, at the renderings' size or enlarged (S.6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..models.super_resolution import Upscaler
from ..models.trigen import TriGen
from ..scene_cameras import scene_rays, video_c2w
from .pictures import Picture, to_picture

FRAMES = 60
SEED = 0
"""Of the samples along the rays: the same in every frame, or still surfaces shimmer."""


class SceneFrames(NamedTuple):
    """A scene from F cameras, on the CPU."""

    pictures: Tensor  # (F, 3, S, S) in [0, 1]
    distance: Tensor  # (F, S, S) along the rays, scene units
    opacity: Tensor  # (F, S, S)


@torch.no_grad()
def render_frames(
    model: TriGen, image: Tensor, depth: Tensor, c2w: Tensor, size: int | None = None
) -> SceneFrames:
    """A scene from cameras ``(F, 4, 4)``, with the samples that people want.

    Args:
        model: in eval mode.
        image, depth: ``(3, H, H)`` and ``(1, H, H)`` in [0, 1].
        c2w: see `fastrecon.scene_cameras`.
        size: side of the frames; ``model.config.size`` if None.
    """
    device = next(model.parameters()).device
    size = model.config.size if size is None else size
    levels = model.pyramid(model.encode(image[None].to(device), depth[None].to(device)).float())
    found = []
    for pose in tqdm(c2w, desc="frames", leave=False, disable=None if len(c2w) > 1 else True):
        rays_o, rays_d = scene_rays(pose.to(device), size, model.config.camera.fov_deg)
        seen = model.render(
            levels, rays_o[None], rays_d[None], settings=model.viewing_settings, seed=SEED
        )
        rgb = model.pictures(seen)[0].movedim(-1, 0).clamp(0.0, 1.0)
        found.append([x.float().cpu() for x in (rgb, seen.depth[0], seen.opacity[0])])
    return SceneFrames(*(torch.stack(x) for x in zip(*found, strict=True)))


def scene_video(
    model: TriGen,
    image: Tensor,
    depth: Tensor,
    *,
    frames: int = FRAMES,
    upscaler: Upscaler | None = None,
) -> list[Picture]:
    """The frames of a looping video, for `fastrecon.export.pictures.gif_bytes`.

    Args:
        model: in eval mode.
        image, depth: ``(3, H, H)`` and ``(1, H, H)`` in [0, 1].
        frames: of one turn over ``config.camera.video``'s ellipse.
        upscaler: of `load_upscaler`. None: ``model.config.size`` pixels, as rendered. For both
            videos render once, with `render_frames`, and give its pictures to `video_pictures`.
    """
    yaw, pitch = model.config.camera.video
    c2w = video_c2w(frames, yaw, pitch, model.config.camera.radius)
    return video_pictures(render_frames(model, image, depth, c2w).pictures, upscaler)


def video_pictures(pictures: Tensor, upscaler: Upscaler | None = None) -> list[Picture]:
    """Rendered frames ``(F, 3, S, S)`` as 8-bit pictures, enlarged if wanted."""
    shown = pictures if upscaler is None else upscaler(pictures)
    return [to_picture(frame.movedim(0, -1)) for frame in shown]
