"""Single-view pictures in a room: mask, depth and crop agree with the object."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastrecon.cameras import camera_rays
from fastrecon.data.procedural import ProceduralObjects
from fastrecon.data.procedural.photos import Photographs, photographs

SIZE = 32


@pytest.fixture(scope="module")
def photos() -> Photographs:
    return photographs(5, range(8), SIZE)


def test_shapes_and_ranges(photos: Photographs) -> None:
    assert photos.rgb.shape == (8, 3, SIZE, SIZE)
    assert photos.mask.shape == photos.depth.shape == (8, SIZE, SIZE)
    assert bool(((photos.rgb >= 0) & (photos.rgb <= 1)).all())
    assert bool(torch.isfinite(photos.depth).all())
    assert float(photos.depth.min()) > 0


def test_a_picture_is_a_function_of_its_index(photos: Photographs) -> None:
    alone = photographs(5, [7], SIZE)
    torch.testing.assert_close(alone.rgb[0], photos.rgb[7], atol=1e-3, rtol=0)
    torch.testing.assert_close(alone.depth[0], photos.depth[7], atol=1e-3, rtol=1e-3)
    assert not torch.equal(photographs(6, [7], SIZE).rgb[0], alone.rgb[0])


def test_masks_and_depths_are_those_of_the_objects(photos: Photographs) -> None:
    objects = ProceduralObjects(5, 9).batch(range(8))
    rays = (x.reshape(8, -1, 3) for x in camera_rays(photos.c2w, SIZE, SIZE, 40.0))
    found = objects.trace(*rays)
    hit, depth = (x.reshape(8, SIZE, SIZE) for x in (found.mask, found.depth))
    inner, outer = photos.mask == 1, photos.mask == 0
    assert float((hit[inner] == 1).float().mean()) > 0.98
    assert float((hit[outer] == 0).float().mean()) > 0.98
    both = inner & (hit == 1)
    error = (photos.depth - depth)[both].abs()
    assert float(error.quantile(0.95)) < 0.02  # pixels are 0.07 wide


def test_the_room_is_behind_the_object(photos: Photographs) -> None:
    """Beside the silhouette the depth is larger than on it; the room never cuts the object."""
    for mask, depth in zip(photos.mask, photos.depth, strict=True):
        near = float(depth[mask == 1].min())
        assert float(depth[mask == 0].median()) > near


def test_pictures_are_cropped_in_different_ways(photos: Photographs) -> None:
    share = photos.mask.mean((1, 2))
    assert float(share.max()) > 1.5 * float(share.min()) > 0
    columns = torch.arange(SIZE) + 0.5
    centre = (photos.mask.sum(1) * columns).sum(1) / photos.mask.sum((1, 2))
    assert float((centre - SIZE / 2).abs().max()) > 1


def test_rooms_differ(photos: Photographs) -> None:
    corners = photos.rgb[:, :, 0, 0].numpy()
    assert len(np.unique(corners.round(3), axis=0)) == 8


def test_no_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one object"):
        photographs(5, [], SIZE)
