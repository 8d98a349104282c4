"""Colour of procedural surfaces: patterns at points, light by hand, hues against the library's."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from fastrecon.data.textures import PATTERNS, checker, hsv_to_rgb, solid, stripes, waves
from tests.data.solids import make_scene

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def colour_at(y: float, z: float, **part) -> list[float]:
    """What a ray along -x sees of a unit box at (1, y, z), under even light."""
    part = {"kind": "box", "colours": (RED, BLUE), **part}
    rays_o, rays_d = torch.tensor([[[3.0, y, z]]]), torch.tensor([[[-1.0, 0.0, 0.0]]])
    return make_scene([[part]]).trace(rays_o, rays_d).rgb[0, 0].tolist()


def test_solid_shows_the_first_colour() -> None:
    assert colour_at(0.3, -0.7, pattern=PATTERNS.index(solid)) == pytest.approx(RED)


def test_checker_alternates_along_both_axes() -> None:
    part = {"pattern": PATTERNS.index(checker), "rows": np.diag([0.5, 1.0, 1.0])}
    assert colour_at(0.5, 0.5, **part) == pytest.approx(RED)
    assert colour_at(-0.5, 0.5, **part) == pytest.approx(BLUE)
    assert colour_at(0.5, -0.5, **part) == pytest.approx(BLUE)
    assert colour_at(-0.5, -0.5, **part) == pytest.approx(RED)
    assert colour_at(0.5, 0.5, **part, phases=(0.0, 1.0, 0.0)) == pytest.approx(BLUE)


def test_stripes_alternate_along_the_first_phase_alone() -> None:
    rows = [[0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    part = {"pattern": PATTERNS.index(stripes), "rows": rows}
    for z, colour in ((0.25, RED), (0.75, BLUE), (-0.25, BLUE), (-0.75, RED)):
        assert colour_at(0.4, z, **part) == pytest.approx(colour)
        assert colour_at(-0.4, z, **part) == pytest.approx(colour)


def test_waves_are_the_mean_of_three_sinusoids() -> None:
    part = {"pattern": PATTERNS.index(waves), "rows": [[0.0, 0.0, 1.0]] * 3}
    for z, mix in ((0.25, 1.0), (-0.25, 0.0), (0.5, 0.5), (1 / 12, 0.75)):
        assert colour_at(0.0, z, **part) == pytest.approx((1 - mix, 0.0, mix), abs=1e-5)


def test_a_folded_texture_is_its_own_mirror_image() -> None:
    """Turned a quarter, the box's own x runs along the world's y."""
    part = {
        "pattern": PATTERNS.index(stripes),
        "rows": [[1.0, 0.0, 0.0]] * 3,
        "rotation": [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    }
    assert colour_at(0.5, 0.2, **part) != colour_at(-0.5, 0.2, **part)
    part["fold"] = True
    assert colour_at(0.5, 0.2, **part) == colour_at(-0.5, 0.2, **part)


def test_a_lamp_brightens_what_faces_it_and_stays_with_the_world() -> None:
    lights = ((0.5, 0.0, 0.0), (0.0, 0.0, 0.0))  # from +x
    parts = [[{"kind": "ellipsoid", "size": (0.5, 1.0, 1.0), "colours": (RED, RED)}]]
    scene = make_scene(parts, ambient=0.5, lights=lights)
    for axis, brightness in (((1, 0, 0), 1.0), ((0, 1, 0), 0.5), ((-1, 0, 0), 0.5)):
        origin = torch.tensor(axis, dtype=torch.float32)[None, None]
        found = scene.trace(3 * origin, -origin)
        assert found.rgb[0, 0].tolist() == pytest.approx([brightness, 0.0, 0.0], abs=1e-5)


def test_light_falls_off_with_the_cosine() -> None:
    scene = make_scene([[{"kind": "ellipsoid"}]], ambient=0.0, lights=((0, 0, 0.6), (0.4, 0, 0)))
    slant = torch.tensor([[[0.6, 0.0, 0.8]]])  # a unit normal: 0.6 * 0.8 + 0.4 * 0.6
    found = scene.trace(3 * slant, -slant)
    assert found.rgb[0, 0].tolist() == pytest.approx([0.72] * 3, abs=1e-5)


def test_hues_are_those_of_the_standard_library() -> None:
    hsv = np.random.default_rng(0).random((50, 3))
    expected = [colorsys.hsv_to_rgb(*row) for row in hsv]
    np.testing.assert_allclose(hsv_to_rgb(hsv), expected, atol=1e-12)
