"""FID and IS of random sides, with a stand-in for Inception."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fastrecon.config.g3dr import SceneCameraConfig
from fastrecon.evaluation.fid import frechet_distance
from fastrecon.evaluation.inception_score import inception_score
from fastrecon.evaluation.scene_validation import SceneSet
from fastrecon.evaluation.scenes.sides import judge_sides, random_sides
from fastrecon.evaluation.scenes.sources import FileScenes, ProceduralScenes
from fastrecon.models.super_resolution import upscale
from fastrecon.scene_cameras import scene_rays
from tests.evaluation.scenes.made_scenes import MICRO, SIZE, micro_trigen, write_rgbd


class Stand:
    """Mean colours, and logits that follow them; remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, pictures: Tensor) -> tuple[Tensor, ...]:
        self.seen.append(pictures)
        means = pictures.mean((2, 3))
        return means, 10.0 * means


def test_random_sides_stay_within_the_camera_s_limits() -> None:
    camera = SceneCameraConfig()
    c2w = random_sides(camera, 0, 200)
    x, y, z = (c2w[:, :3, 3] / camera.radius).unbind(1)
    yaw, pitch = torch.atan2(-z, -x), -torch.asin(y)
    assert float(yaw.abs().max()) <= math.pi / camera.yaw_den[1] + 1e-6
    assert float(pitch.abs().max()) <= math.radians(camera.pitch_deg) + 1e-6
    # uniform: a variance of limit^2 / 3
    assert float(yaw.std()) == pytest.approx(math.pi / 6 / math.sqrt(3), rel=0.15)
    assert_close(random_sides(camera, 150, 3), c2w[150:153])
    assert not torch.equal(random_sides(camera, 0, 3, seed=1), c2w[:3])


def test_scores_are_those_of_the_renderings() -> None:
    model, stand = micro_trigen(), Stand()
    source = ProceduralScenes(views=1, max_parts=1, count=18)
    found = judge_sides({"m": model}, source, (1.0, 5.0), stand, 18)
    inputs = SceneSet.procedural(0, 18, SIZE, MICRO.camera, 1, 1).batch
    rays_o, rays_d = scene_rays(random_sides(MICRO.camera, 0, 18), SIZE)
    with torch.no_grad():
        planes = model.encode(inputs.images, inputs.depth)
    # 16 + 2 scenes: references, then both scales
    references, ones, fives = (torch.cat(stand.seen[k::3]) for k in range(3))
    assert_close(references, inputs.images, atol=1e-6, rtol=0)
    for shown, scale in ((ones, 1.0), (fives, 5.0)):
        scores = found["m", scale]
        assert scores.fid is not None
        assert scores.inception is not None
        means = shown.mean((2, 3))
        expected = frechet_distance(means.numpy(), references.mean((2, 3)).numpy())
        assert scores.fid.value == pytest.approx(expected, rel=1e-4)
        assert (scores.fid.pictures, scores.fid.references) == (18, 18)
        assert scores.inception == inception_score(10.0 * means)
    with torch.no_grad():
        seen = model.render(planes[:16], rays_o[:16], rays_d[:16], seed=0)
    assert_close(ones[:16], model.pictures(seen).movedim(-1, 1).clamp(0, 1), atol=1e-3, rtol=0)
    assert np.isfinite(found["m", 5.0].fid.value)  # type: ignore[union-attr]


def test_renderings_may_be_enlarged_first_and_bad_files_are_left_out(tmp_path) -> None:
    root = write_rgbd(tmp_path / "set", 2)
    (root / "class0/0_depth.png").write_bytes(b"damaged")
    source, stand = FileScenes(str(root)), Stand()
    found = judge_sides(
        {"a": micro_trigen(0), "b": micro_trigen(1)}, source, (1.0,), stand, 99, upscaler=upscale
    )
    assert list(source.skipped) == ["class0/0"]
    assert {x.shape[-1] for x in stand.seen} == {SIZE, 2 * SIZE}
    for scores in found.values():
        assert scores.fid is not None
        assert scores.fid.pictures == 3
        assert scores.inception is None  # ten splits need ten pictures
