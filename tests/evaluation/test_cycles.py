"""Cameras of the protocol against brute force, and what is rendered from them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastrecon.cameras import camera_rays, view_back
from fastrecon.config import INPUT_GREY
from fastrecon.evaluation.cycles import (
    InputCamera,
    encode_picture,
    render_views,
    there_and_back,
)
from fastrecon.models.lrm import LRM
from tests.micro import micro_config

CAMERA = InputCamera(3.0, 39.6)


def model(**overrides: object) -> LRM:
    torch.manual_seed(0)
    return LRM(micro_config(**overrides)).eval()


def test_the_intermediate_cameras_stand_where_the_paper_says() -> None:
    azimuths = [0, 30, 60, -30, -60, 30, 60, -30, -60, 30, 60, -30, -60]
    elevations = [0, 0, 0, 0, 0, 30, 30, 30, 30, 60, 60, 60, 60]
    cameras = CAMERA.intermediate().double().numpy()
    assert cameras.shape == (13, 4, 4)
    for c2w, azimuth, elevation in zip(cameras, azimuths, elevations, strict=True):
        a, e = math.radians(azimuth), math.radians(elevation)
        place = 3 * np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
        assert np.allclose(c2w[:3, 3], place, atol=1e-6)
        assert np.allclose(c2w[:3, 2], place / 3, atol=1e-6)  # looks at the origin
        assert c2w[2, 0] == pytest.approx(0, abs=1e-6)  # horizon level
        assert c2w[2, 1] >= 0
    canonical = [[0, 0, 1, 3], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert np.allclose(cameras[0], canonical, atol=1e-6)


def test_seven_cameras_around_begin_at_the_input_view() -> None:
    cameras = CAMERA.around()
    assert torch.allclose(cameras[0], CAMERA.canonical, atol=1e-6)
    angles = torch.atan2(cameras[:, 1, 3], cameras[:, 0, 3]).rad2deg() % 360
    assert angles.tolist() == pytest.approx([360 * k / 7 for k in range(7)], abs=1e-3)
    assert cameras[:, 2, 3].abs().max() < 1e-6
    assert cameras[:, :3, 3].norm(dim=-1).tolist() == pytest.approx([3.0] * 7)


def test_the_inverse_pose_against_brute_force() -> None:
    """A world in which the novel camera is canonical: where does the input camera stand there?"""
    canonical = CAMERA.canonical.double().numpy()
    novel = CAMERA.intermediate().double().numpy()
    back = view_back(CAMERA.intermediate().double(), CAMERA.canonical.double()).numpy()
    for c1, found in zip(novel, back, strict=True):
        assert np.allclose(found, canonical @ np.linalg.inv(c1) @ canonical, atol=1e-6)
        # a point keeps its place before both cameras when the world moves by C0 inv(C1)
        point = np.array([0.3, -0.2, 0.5, 1.0])
        moved = canonical @ np.linalg.inv(c1) @ point
        assert np.allclose(np.linalg.inv(canonical) @ moved, np.linalg.inv(c1) @ point, atol=1e-6)
        before = np.linalg.inv(canonical) @ point
        assert np.allclose(np.linalg.inv(found) @ moved, before, atol=1e-6)


def test_pictures_are_premultiplied_and_white_behind() -> None:
    lrm = model()
    picture = torch.zeros(4, 16, 16)
    picture[:, 4:12, 4:12] = 1.0
    planes = encode_picture(lrm, picture, CAMERA)
    seen = render_views(lrm, planes, CAMERA.canonical[None], torch.tensor([39.6]), 8)
    rays = camera_rays(CAMERA.canonical, 8, 8, 39.6)
    with torch.no_grad():
        direct = lrm.render(planes, rays[0][None], rays[1][None])  # on white
    white = seen[0, :3] + 1 - seen[0, 3:]
    assert torch.allclose(white, direct.rgb[0].movedim(-1, 0), atol=1e-5)
    assert torch.allclose(seen[0, 3], direct.opacity[0], atol=1e-6)


def test_the_way_back_reads_novel_views_on_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    lrm = model()
    read: list[torch.Tensor] = []
    encode = lrm.encode

    def watched(images: torch.Tensor) -> torch.Tensor:
        read.append(images)
        return encode(images)

    monkeypatch.setattr(lrm, "encode", watched)
    planes = encode_picture(lrm, torch.zeros(4, 16, 16), CAMERA)
    assert torch.equal(read[0], torch.full((1, 3, 16, 16), INPUT_GREY))
    camera = InputCamera(1.9, 40.0)
    back = there_and_back(lrm, planes, camera, 8)
    assert back.shape == (13, 3, 8, 8)
    assert len(read) == 14
    fov = torch.full((13,), 40.0)
    for k in (0, 7):
        novel = render_views(lrm, planes, camera.intermediate(), fov, 16)[k]
        assert torch.allclose(read[1 + k][0], novel[:3] + INPUT_GREY * (1 - novel[3:]), atol=1e-6)
        again = encode_picture(lrm, novel, camera)
        pose = camera.canonical @ torch.linalg.inv(camera.intermediate()[k]) @ camera.canonical
        seen = render_views(lrm, again, pose[None], fov[:1], 8)[0]
        assert torch.allclose(back[k], seen[:3] + 1 - seen[3:], atol=1e-4)


def test_a_pose_conditioned_model_is_told_the_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    lrm = model()
    told: list[torch.Tensor] = []

    def watched(images: torch.Tensor, cameras: torch.Tensor) -> torch.Tensor:
        told.append(cameras)
        return torch.zeros(1, 3, 4, 4, 4)

    backbone = replace(lrm.config.backbone, conditioning="camera")
    lrm.config = replace(lrm.config, backbone=backbone)
    monkeypatch.setattr(lrm, "encode", watched)
    encode_picture(lrm, torch.zeros(4, 16, 16), CAMERA)
    assert told[0].shape == (1, 16)
    assert told[0][0, :12].tolist() == pytest.approx([0, 0, 1, 3, 1, 0, 0, 0, 0, 1, 0, 0])
    focal = 0.5 / math.tan(math.radians(39.6) / 2)
    assert told[0][0, 12:].tolist() == pytest.approx([focal, focal, 0.5, 0.5])


def test_pictures_that_are_not_finite_are_refused() -> None:
    lrm = model()
    planes = encode_picture(lrm, torch.zeros(4, 16, 16), CAMERA) * torch.nan
    with pytest.raises(ValueError, match="not finite; check the weights"):
        render_views(lrm, planes, CAMERA.canonical[None], torch.tensor([40.0]), 8)
