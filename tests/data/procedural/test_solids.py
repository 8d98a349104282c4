"""Every solid against an inside test of its own and brute-force distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastrecon.data.procedural.solids import SOLIDS, Sizes, Solid
from tests.data.procedural.solids import INSIDE, NAMES

BY_NAME = {solid.name: solid for solid in SOLIDS}
TRAITS = [(0.0, 0.0), (0.999, 0.999), (0.3, 0.8), (0.8, 0.2)]
CURVED = ("ellipsoid", "dome", "star", "bowl")
"""Their distance is to first order: exact near the surface, too large deep within an ellipsoid."""


def samples(solid: Solid, n: int, reach: float = 1.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half sizes (K, 3), traits (K, 2) and points (K, n, 3) around the solids."""
    rng = np.random.default_rng(NAMES.index(solid.name))
    halves = np.exp(rng.uniform(-0.8, 0.3, (len(TRAITS), 3)))
    if solid.round:
        halves[:, 1] = halves[:, 0]
    if solid.name == "bowl":
        halves[:, 2] = 0.5 * halves[:, 0]
    points = rng.uniform(-reach, reach, (len(TRAITS), n, 3)) * halves[:, None]
    return halves, np.array(TRAITS), points


def distance(solid: Solid, points, halves, traits):
    columns = [c[:, None] for c in (*halves.T, *traits.T)]
    return solid.distance(points[..., 0], points[..., 1], points[..., 2], Sizes(*columns))


def inside(solid: Solid, points: np.ndarray, halves: np.ndarray, traits: np.ndarray) -> np.ndarray:
    rows = zip(points, halves, traits, strict=True)
    return np.stack([INSIDE[solid.name](p, h, *t) for p, h, t in rows])


def surface(solid: Solid, halves: np.ndarray, traits: np.ndarray) -> list[np.ndarray]:
    """Points on the surfaces, by bisection between points inside and outside."""
    rng = np.random.default_rng(1)
    ends = rng.uniform(-1.05, 1.05, (2, len(halves), 6000, 3)) * halves[:, None]
    there, here = (inside(solid, p, halves, traits) for p in ends)
    low, high = ends
    for _ in range(24):
        middle = 0.5 * (low + high)
        same = (inside(solid, middle, halves, traits) == there)[..., None]
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return [p[kept] for p, kept in zip(0.5 * (low + high), there != here, strict=True)]


def test_every_solid_has_an_inside_test() -> None:
    assert set(INSIDE) == set(BY_NAME)
    assert len(BY_NAME) == len(SOLIDS) >= 9


@pytest.mark.parametrize("name", NAMES)
def test_negative_is_inside_and_inside_is_in_the_box(name: str) -> None:
    halves, traits, points = samples(BY_NAME[name], 4000)
    d, within = (
        distance(BY_NAME[name], points, halves, traits),
        inside(BY_NAME[name], points, halves, traits),
    )
    certain = np.abs(d) > 1e-9
    assert (certain & ((d < 0) != within)).sum() == 0
    assert 0.002 < within.mean() < 0.7
    beyond = (np.abs(points) > halves[:, None] * (1 + 1e-6)).any(-1)
    assert not (within & beyond).any()


@pytest.mark.parametrize("name", NAMES)
def test_spheres_of_the_distance_are_free(name: str) -> None:
    """No surface point within |d|; and |d| is no needlessly small part of the way."""
    solid = BY_NAME[name]
    halves, traits, points = samples(solid, 150)
    d = distance(solid, points, halves, traits)
    for own, values, dots in zip(points, d, surface(solid, halves, traits), strict=True):
        assert len(dots) > 40
        nearest = np.linalg.norm(own[:, None] - dots[None, ::2], axis=-1).min(1)
        if name in CURVED:  # the outside, which rays cross, and close to the surface
            kept = (values > 0) & (name != "bowl") | (np.abs(values) < 0.02)
            nearest, values = 1.02 * nearest[kept] + 0.01, values[kept]
        assert (np.abs(values) <= nearest + 1e-9).all()
        if name != "bowl":
            assert np.quantile(np.abs(values) / nearest, 0.1) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_distances_never_change_faster_than_points_move(name: str) -> None:
    solid = BY_NAME[name]
    halves, traits, points = samples(solid, 1500)
    step = np.random.default_rng(2).normal(size=points.shape)
    step *= 1e-4 / np.linalg.norm(step, axis=-1, keepdims=True)
    here = distance(solid, points, halves, traits)
    slope = np.abs(distance(solid, points + step, halves, traits) - here) / 1e-4
    if name in CURVED:
        slope = slope[(np.abs(here) < 0.05) if name == "bowl" else (here > 0)]
    assert slope.max() < (1.2 if name in CURVED else 1.001)
    assert np.quantile(slope, 0.95) > 0.2


@pytest.mark.parametrize("name", NAMES)
def test_numpy_and_torch_agree(name: str) -> None:
    solid = BY_NAME[name]
    halves, traits, points = (x.astype(np.float32) for x in samples(solid, 500))
    ours = distance(solid, points, halves, traits)
    assert ours.dtype == np.float32
    theirs = distance(solid, *(torch.from_numpy(x) for x in (points, halves, traits)))
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "point", "traits", "expected"),
    [
        ("ellipsoid", (2.0, 0.0, 0.0), (0, 0), 1.5),
        ("box", (0.8, 0.9, 0.5), (0, 0), 0.5),  # 3, 4, 0
        ("box", (0.0, 0.0, 0.0), (0, 0), -0.5),
        ("box", (0.8, 0.9, 0.5), (1, 0), math.sqrt(0.55**2 + 0.65**2 + 0.25**2) - 0.25),
        ("cylinder", (0.0, 0.8, 0.9), (0, 0), 0.5),
        ("capsule", (0.0, 0.0, 1.2), (0, 0), 0.7),
        ("torus", (0.0, 0.0, 0.0), (0, 0), 0.05),  # 0.275 to the ring, 0.225 thick
        ("dome", (0.0, 0.0, -1.0), (0, 0), 0.5),
        ("octahedron", (0.5, 0.5, 0.5), (0, 0), 1 / math.sqrt(3)),
        ("tube", (0.0, 0.0, 0.0), (0, 0), 0.44),
        ("bowl", (0.0, 0.0, 1.0), (0, 0), 0.5),
        ("box_frame", (0.0, 0.0, 0.0), (0, 0), 0.4 * math.sqrt(2)),
        ("cage", (0.0, 0.0, 0.0), (0, 0), 0.46 - 0.04),
        ("prism", (1.0, 0.0, 0.0), (0, 0), 0.75),  # a triangle's inradius is half
    ],
)
def test_distances_by_hand(name: str, point, traits, expected: float) -> None:
    """Solids of half size 0.5."""
    halves, points = np.full((1, 3), 0.5), np.array([[point]])
    found = distance(BY_NAME[name], points, halves, np.array([traits], dtype=float))
    assert float(found[0, 0]) == pytest.approx(expected, abs=1e-5)
