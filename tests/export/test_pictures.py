"""Pictures whose pixels a person can predict."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fastrecon.cameras import camera_rays, orbit_c2w
from fastrecon.export.pictures import (
    NEAR_TO_FAR,
    contact_sheet,
    depth_picture,
    gif_bytes,
    normal_picture,
    png_bytes,
    to_picture,
)


def test_depth_runs_from_near_to_far_and_leaves_the_rest_white() -> None:
    depth = torch.linspace(1, 2, 100).reshape(10, 10)
    opacity = torch.ones(10, 10)
    opacity[5] = 0.2
    picture = depth_picture(depth, opacity)
    np.testing.assert_array_equal(picture[0, 0], NEAR_TO_FAR[0])
    np.testing.assert_array_equal(picture[-1, -1], NEAR_TO_FAR[-1])
    assert (picture[5] == 255).all()
    assert (depth_picture(depth, torch.zeros(10, 10)) == 255).all()


@pytest.mark.parametrize("azimuth", [0.0, 1.0])
def test_a_wall_that_faces_the_camera_has_its_normal_toward_the_viewer(azimuth: float) -> None:
    c2w = orbit_c2w(azimuth, 0.4, 2.0)
    rays_o, rays_d = camera_rays(c2w, 16, 16, 40.0)
    forward = -c2w[:3, 2]
    depth = 1.5 / (rays_d @ forward)  # the plane at distance 1.5 before the camera
    picture = normal_picture((depth, torch.ones(16, 16)), (rays_o, rays_d), c2w)
    expected = np.full((8, 8, 3), [128, 128, 255])
    np.testing.assert_allclose(picture[4:-4, 4:-4], expected, atol=2)


def test_png_and_gif_can_be_read_back() -> None:
    red = to_picture(torch.tensor([1.0, 0, 0]).expand(8, 8, 3))
    blue = to_picture(torch.tensor([0, 0, 2.0]).expand(8, 8, 3))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(red)))), red)
    gif = Image.open(io.BytesIO(gif_bytes([red, blue], seconds=1.0)))
    assert getattr(gif, "n_frames", 1) == 2
    assert (gif.info["duration"], gif.info["loop"]) == (500, 0)
    gif.seek(1)
    np.testing.assert_allclose(np.asarray(gif.convert("RGB")), blue, atol=8)
    with pytest.raises(ValueError, match="at least one frame"):
        gif_bytes([])


def test_contact_sheet_holds_every_picture() -> None:
    cells = [(f"cell {k}", np.full((4, 4, 3), 20 * k, np.uint8)) for k in range(7)]
    sheet = contact_sheet(cells, columns=3, side=32)
    assert sheet.shape == (3 * (32 + 8 + 16) + 8, 3 * (32 + 8) + 8, 3)
    for k in range(7):
        row, column = divmod(k, 3)
        middle = sheet[8 + row * 56 + 16 + 16, 8 + column * 40 + 16]
        np.testing.assert_array_equal(middle, 20 * k)
