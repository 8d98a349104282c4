"""The extruded silhouette: from the front it is the picture, from the side a slab."""

from __future__ import annotations

import math

import pytest
import torch

from fastrecon.cameras import orbit_c2w
from fastrecon.errors import MeshError
from fastrecon.evaluation.extrusion import Extrusion
from tests.micro import micro_config

SIDE = 32
DISTANCE = 1.9
TANGENT = math.tan(math.radians(20.0))


def picture() -> torch.Tensor:
    """A square of the middle half of the picture, its left half red, its right half blue."""
    rgba = torch.zeros(4, SIDE, SIDE)
    rgba[3, 8:24, 8:24] = 1.0
    rgba[0, 8:24, 8:16] = 1.0
    rgba[2, 8:24, 16:24] = 1.0
    return rgba


def extrusion(share: float = 0.5) -> Extrusion:
    return Extrusion(picture(), micro_config(camera_distance=DISTANCE), share)


def looks(*azimuths_deg: float) -> torch.Tensor:
    azimuths = torch.tensor(azimuths_deg).deg2rad()
    return extrusion().render(orbit_c2w(azimuths, 0.0, DISTANCE), SIDE)


def test_from_the_input_camera_it_is_the_picture() -> None:
    rgba = picture()
    (seen,) = looks(0.0)
    truth = rgba[:3] * rgba[3:] + 1.0 - rgba[3:]
    wrong = (seen - truth).abs().amax(0) > 0.02
    wrong[:, 15:17] = False  # the colours are interpolated where they meet
    assert not wrong.any()


def test_from_behind_it_is_the_mirror_image() -> None:
    (seen,) = looks(180.0)
    assert seen[:, 16, 12].tolist() == pytest.approx([0, 0, 1], abs=0.02)
    assert seen[:, 16, 20].tolist() == pytest.approx([1, 0, 0], abs=0.02)


def test_from_the_side_it_is_as_deep_as_asked() -> None:
    (seen,) = looks(90.0)
    covered = (seen.mean(0) < 0.9)[16]
    # 0.5 of the silhouette's 16 pixels, seen at the near side, which is half a silhouette nearer
    assert int(covered.sum()) == pytest.approx(8 / (1 - 0.5 * TANGENT), abs=1.01)


def test_its_surface_is_the_cone_between_two_planes() -> None:
    surface = extrusion().surface(64)
    low, high = surface.vertices.min(0), surface.vertices.max(0)
    half_depth = 0.25 * 2 * 0.5 * TANGENT * DISTANCE
    assert high[0] == pytest.approx(half_depth, abs=0.01)
    assert low[0] == pytest.approx(-half_depth, abs=0.01)
    back = 0.5 * TANGENT * (DISTANCE + half_depth)
    assert high[1:].tolist() == pytest.approx([back, back], abs=0.02)
    assert low[1:].tolist() == pytest.approx([-back, -back], abs=0.02)


def test_an_off_centre_silhouette_stays_where_it_is() -> None:
    rgba = torch.zeros(4, SIDE, SIDE)
    rgba[:, 2:6, 20:30] = 1.0  # up, right
    rgba[1] = 0.0
    solid = Extrusion(rgba, micro_config(camera_distance=DISTANCE))
    middle = solid.surface(64).vertices.mean(0)
    assert middle[1] > 0.1
    assert middle[2] > 0.1
    (seen,) = solid.render(orbit_c2w(0.0, 0.0, DISTANCE)[None], SIDE)
    assert seen[:, 4, 25].tolist() == pytest.approx([1, 0, 1], abs=0.02)
    assert seen[:, 20, 10].tolist() == [1, 1, 1]


def test_a_picture_without_an_object() -> None:
    with pytest.raises(MeshError, match="no pixel"):
        Extrusion(torch.zeros(4, 8, 8), micro_config())
