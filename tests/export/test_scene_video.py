"""Videos of scenes."""

from __future__ import annotations

import numpy as np
import torch
from torch.testing import assert_close

from fastrecon.export.pictures import gif_bytes
from fastrecon.export.scene_video import render_frames, scene_video, video_pictures
from fastrecon.models.super_resolution import upscale
from fastrecon.scene_cameras import scene_rays, video_c2w
from tests.evaluation.scenes.made_scenes import SIZE, micro_trigen

IMAGE, DEPTH = torch.rand(3, 16, 16), torch.rand(1, 16, 16)


def test_a_turn_with_and_without_super_resolution() -> None:
    model = micro_trigen()
    plain = scene_video(model, IMAGE, DEPTH, frames=4)
    larger = scene_video(model, IMAGE, DEPTH, frames=4, upscaler=upscale)
    assert [f.shape for f in plain] == 4 * [(SIZE, SIZE, 3)]
    assert [f.shape for f in larger] == 4 * [(2 * SIZE, 2 * SIZE, 3)]
    assert plain[0].dtype == np.uint8
    assert (plain[0] != plain[2]).any()
    assert gif_bytes(plain)[:3] == b"GIF"


def test_frames_are_renderings_of_the_video_s_cameras() -> None:
    model = micro_trigen()
    c2w = video_c2w(3, *model.config.camera.video)
    frames = render_frames(model, IMAGE, DEPTH, c2w)
    rays_o, rays_d = scene_rays(c2w[1], SIZE)
    with torch.no_grad():
        planes = model.encode(IMAGE[None], DEPTH[None])
        seen = model.render(
            planes, rays_o[None], rays_d[None], settings=model.viewing_settings, seed=0
        )
    assert_close(frames.pictures[1], model.pictures(seen)[0].movedim(-1, 0).clamp(0, 1))
    assert_close(frames.distance[1], seen.depth[0])
    assert frames.opacity.shape == (3, SIZE, SIZE)
    assert render_frames(model, IMAGE, DEPTH, c2w[:1], size=12).pictures.shape == (1, 3, 12, 12)
    twice = video_pictures(frames.pictures, upscale)
    assert twice[0].shape == (2 * SIZE, 2 * SIZE, 3)
