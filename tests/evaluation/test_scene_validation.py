"""Judging f_trigen: density scales by brute force, and what is compared with what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fastrecon_kernels import sample_rays
from torch.testing import assert_close

from fastrecon.config import RunConfig
from fastrecon.config.g3dr import G3DRConfig, RGBDDataConfig
from fastrecon.data.rgbd import RGBDBatch
from fastrecon.evaluation.metrics import psnr
from fastrecon.evaluation.scene_validation import SceneSet, judge_scenes, scene_grid
from fastrecon.models.trigen import TriGen
from fastrecon.scene_cameras import depth_to_distance, scene_c2w, scene_rays
from tests.evaluation.scenes.made_scenes import MICRO, SIZE, micro_trigen, write_rgbd

SCALES = (1.0, 5.0, 50.0)


def without_chance() -> TriGen:
    """Samples at known places: no jitter, no importance sampling."""
    model = micro_trigen()
    render = replace(MICRO.render, n_samples=24, n_importance=0, stratified=False)
    plain = TriGen(replace(MICRO, render=render)).eval()
    plain.load_state_dict(model.state_dict())
    return plain


@pytest.mark.parametrize("scale", SCALES)
def test_densities_are_scaled_after_their_softplus(scale: float) -> None:
    model = without_chance()
    scenes = SceneSet.procedural(0, 2, SIZE, MICRO.camera, views=1, max_parts=2)
    found = judge_scenes(model, scenes, sigma_scale=scale)
    settings = model.config.render
    rays_o, rays_d = scene_rays(scene_c2w(0.0, 0.0, MICRO.camera.radius), SIZE)
    ts, deltas = sample_rays(rays_o[None], rays_d[None], settings)
    points = rays_o[None, ..., None, :] + ts[..., None] * rays_d[None, ..., None, :]
    for i in range(2):
        with torch.no_grad():
            planes = model.encode(scenes.batch.images[i : i + 1], scenes.batch.depth[i : i + 1])
            x, rgb = model.query(planes, points, raw=True)
        x_mid, colour = (x[..., 1:] + x[..., :-1]) / 2, (rgb[..., 1:, :] + rgb[..., :-1, :]) / 2
        t_mid = (ts[..., 1:] + ts[..., :-1]) / 2
        alpha = 1 - torch.exp(-scale * F.softplus(x_mid - 1) * deltas)
        transmittance = torch.ones_like(alpha[..., 0])
        picture = torch.zeros_like(colour[..., 0, :])
        distance, opacity = (torch.zeros_like(transmittance) for _ in range(2))
        for k in range(alpha.shape[-1]):
            weight = alpha[..., k] * transmittance
            picture = picture + weight[..., None] * colour[..., k, :]
            distance, opacity = distance + weight * t_mid[..., k], opacity + weight
            transmittance = transmittance * (1 - alpha[..., k])
        expected = picture[0].movedim(-1, 0).clamp(0, 1)
        # judging stops rays at a transmittance of 1e-3
        assert_close(found.pictures[i], expected, atol=2e-3, rtol=0)
        assert_close(found.distance[i], (distance / (opacity + 1e-3))[0], atol=1e-2, rtol=0)


def test_the_unscaled_view_is_what_scaled_ones_are_compared_with() -> None:
    model = micro_trigen()
    scenes = SceneSet.procedural(0, 2, SIZE, MICRO.camera, views=2, max_parts=2)
    plain = judge_scenes(model, scenes)
    assert plain.against_unscaled is None
    assert plain.scores().against_unscaled is None
    same = judge_scenes(model, scenes, unscaled=plain.pictures)
    assert same.against_unscaled is not None
    assert_close(same.against_unscaled, torch.full((2,), 100.0))  # the most that is reported
    scaled = judge_scenes(model, scenes, sigma_scale=10.0, unscaled=plain.pictures)
    assert scaled.against_unscaled is not None
    assert_close(scaled.against_unscaled, psnr(scaled.pictures, plain.pictures))
    assert bool((scaled.against_unscaled < 60).all())
    assert_close(scaled.psnr, psnr(scaled.pictures, scenes.batch.images))
    scores = scaled.scores(10.0)
    assert scores.sigma_scale == 10.0
    assert scores.psnr.mean == pytest.approx(float(scaled.psnr.mean()))
    assert "PSNR to the unscaled view" in scores.table()
    assert scene_grid(scenes, scaled).shape == (3, 2 * SIZE, 4 * SIZE)


def test_novel_views_count_where_they_show_the_box() -> None:
    model = micro_trigen()
    scenes = SceneSet.procedural(0, 1, SIZE, MICRO.camera, views=2, max_parts=2)
    assert scenes.novel is not None
    assert scenes.inside is not None
    before = judge_scenes(model, scenes).novel_psnr
    spoilt = torch.where(scenes.inside[:, :, None], scenes.novel, 1 - scenes.novel)
    after = judge_scenes(model, replace(scenes, novel=spoilt)).novel_psnr
    assert before is not None
    assert after is not None
    assert_close(before, after)


def test_pictures_from_files_have_no_other_sides(tmp_path) -> None:
    root = write_rgbd(tmp_path / "set", 5)
    cfg = G3DRConfig(
        model=MICRO, data=RGBDDataConfig(path=str(root)), run=RunConfig(validation_objects=1)
    )
    scenes = SceneSet.make(cfg)
    assert scenes.novel is None
    assert scenes.batch.images.shape == (1, 3, SIZE, SIZE)
    assert_close(scenes.distance, depth_to_distance(scenes.batch.depth[:, 0]))
    result = judge_scenes(micro_trigen(), scenes)
    assert result.novel_psnr is None
    assert "novel" not in result.scores().table()


def test_both_ways_to_make_a_procedural_set_agree() -> None:
    cfg = G3DRConfig(model=MICRO, run=RunConfig(validation_objects=2, validation_views=1))
    made = SceneSet.make(cfg)
    again = SceneSet.procedural(0, 2, SIZE, MICRO.camera, 1, cfg.data.max_parts)
    assert_close(made.batch.images, again.batch.images)
    assert isinstance(made.batch, RGBDBatch)
