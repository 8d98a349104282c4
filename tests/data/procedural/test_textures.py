"""Patterns at points, pictures against a naive bilinear, hues against the standard library."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch

from fastrecon.data.procedural.textures import (
    PATTERNS,
    PICTURE,
    PICTURE_DRAWS,
    PICTURE_SIDE,
    bands,
    checker,
    dots,
    draw_pictures,
    hsv_to_rgb,
    look_up,
    mix,
    noise,
    ramp,
    rings,
    solid,
    stripes,
    waves,
)


@pytest.mark.parametrize(
    ("pattern", "phases", "expected"),
    [
        (solid, (0.3, 1.7, 2.2), 0.0),
        (checker, (0.5, 0.5, 0.5), 0.0),
        (checker, (1.5, 0.5, 0.5), 1.0),
        (checker, (-0.5, 0.5, 0.5), 1.0),
        (checker, (-0.5, 1.5, 0.5), 0.0),
        (checker, (-0.5, 1.5, 7.5), 1.0),
        (stripes, (0.9, 1.5, 1.5), 0.0),
        (stripes, (1.1, 0.0, 0.0), 1.0),
        (stripes, (-0.1, 0.0, 0.0), 1.0),
        (bands, (0.1, 0.0, 0.0), 1.0),
        (bands, (0.3, 0.0, 0.0), 0.0),
        (bands, (-0.9, 0.0, 0.0), 1.0),
        (dots, (0.5, 0.5, 0.5), 1.0),
        (dots, (3.5, -1.5, 0.79), 1.0),
        (dots, (0.5, 0.5, 0.81), 0.0),
        (dots, (0.0, 0.0, 0.0), 0.0),
        (rings, (0.0, 0.0, 9.0), 0.5),
        (rings, (0.3, 0.4, 0.0), 1.0),  # half a period from the axis
        (rings, (0.9, 1.2, 0.0), 0.0),
        (waves, (0.25, 0.25, 0.25), 1.0),
        (waves, (0.75, 0.75, 0.75), 0.0),
        (waves, (0.25, 0.0, 0.5), 4 / 6),
        (noise, (0.0, 0.0, 0.0), 0.5),
        (noise, (0.25, 0.0, 0.0), 0.5 + 0.33 + 0.17 * math.sin(0.25 * 2.3 * 2 * math.pi)),
        (ramp, (0.0, 5.0, 5.0), 0.0),
        (ramp, (0.5, 0.0, 0.0), 0.5),
        (ramp, (-1.0, 0.0, 0.0), 1.0),
        (ramp, (2.0, 0.0, 0.0), 0.0),
    ],
)
def test_patterns_by_hand(pattern, phases: tuple[float, ...], expected: float) -> None:
    values = pattern(*(torch.tensor([x]) for x in phases))
    assert values.tolist() == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize("dense", [False, True])
def test_every_point_has_the_pattern_of_its_part(dense: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    phases = 4 * torch.rand((3, 2, 500), generator=generator) - 2
    patterns = torch.randint(PICTURE + 1, (2, 500), generator=generator)
    found = mix(patterns, phases, dense)
    assert found.shape == (2, 500)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    for i, pattern in enumerate(PATTERNS):
        expected = pattern(*phases)[patterns == i]
        torch.testing.assert_close(found[patterns == i], expected, atol=1e-6, rtol=0)
        assert len(expected) > 0
    assert bool((found[patterns == PICTURE] == 0).all())


def test_pictures_are_looked_up_bilinearly_and_mirrored() -> None:
    rng = np.random.default_rng(0)
    side, pictures = 5, rng.random((3, 3, 5, 5)).astype(np.float32)
    u, v = rng.uniform(-3, 3, (2, 2, 200)).astype(np.float32)
    which = rng.integers(3, size=(2, 200))
    found = look_up(*(torch.from_numpy(x) for x in (pictures, which, u, v))).numpy()
    assert found.shape == (3, 2, 200)
    for i in np.ndindex(2, 200):
        place = []
        for phase in (float(u[i]), float(v[i])):
            phase = phase % 2
            place.append((phase if phase <= 1 else 2 - phase) * (side - 1.001))
        (x, fx), (y, fy) = ((int(p), p - int(p)) for p in place)
        own = pictures[which[i]]
        upper = own[:, y, x] * (1 - fx) + own[:, y, x + 1] * fx
        lower = own[:, y + 1, x] * (1 - fx) + own[:, y + 1, x + 1] * fx
        np.testing.assert_allclose(
            found[(slice(None), *i)], upper * (1 - fy) + lower * fy, atol=1e-4
        )


def test_corners_of_pictures_stay_within_them() -> None:
    pictures = torch.arange(4.0).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    u, v = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    found = look_up(pictures, torch.zeros(4, dtype=torch.int64), u, v)
    torch.testing.assert_close(found[0], torch.arange(4.0), atol=0.01, rtol=0)


def test_drawn_pictures_have_colours_and_edges() -> None:
    uniform = np.random.default_rng(0).random((20, PICTURE_DRAWS))
    pictures = draw_pictures(uniform)
    assert pictures.shape == (20, 3, PICTURE_SIDE, PICTURE_SIDE)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert bool((pictures.std(axis=(2, 3)).max(axis=1) > 0.02).all())
    np.testing.assert_array_equal(draw_pictures(uniform[7:8])[0], pictures[7])
    assert draw_pictures(uniform[:0]).shape == (0, 3, PICTURE_SIDE, PICTURE_SIDE)


def test_hues_are_those_of_the_standard_library() -> None:
    hsv = np.random.default_rng(0).random((50, 3))
    expected = [colorsys.hsv_to_rgb(*row) for row in hsv]
    np.testing.assert_allclose(hsv_to_rgb(hsv), expected, atol=1e-12)
