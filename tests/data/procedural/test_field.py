"""Joined, carved, filleted and folded parts, one object at a time and all at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastrecon.data.procedural import ProceduralObjects
from fastrecon.data.procedural.field import ABSENT, CARVE, COMMON, JOIN, MIRROR, Field, Parts
from tests.data.procedural.solids import make_parts, rotations

DENSE = pytest.mark.parametrize("dense", [False, True])
SMALL = {"kind": "box", "size": (0.5, 0.5, 0.5), "centre": (0.75, 0.0, 0.0)}
UNIT = {"kind": "box"}


def at(*points: tuple[float, float, float]) -> Tensor:
    """Points (3, 1, N) of one object."""
    return torch.tensor(points).T[:, None]


def scattered(n_objects: int, n: int, spread: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return spread * (2 * torch.rand((3, n_objects, n), generator=generator) - 1)


def alone(parts: Parts, b: int) -> Field:
    return Field(parts.rows(slice(b, b + 1)), dense=False)


# ---------------------------------------------------------------------------------------- combining


@DENSE
@pytest.mark.parametrize(
    ("way", "expected"),
    [
        # at x = 0 (in the first alone), 0.9 (in both), 1.1 (in the second alone), 2
        (JOIN, (-1.0, -0.35, -0.15, 0.75)),
        (CARVE, (-0.25, 0.35, 0.15, 1.0)),
        (COMMON, (0.25, -0.1, 0.1, 1.0)),
    ],
)
def test_two_boxes(way: int, expected: tuple[float, ...], dense: bool) -> None:
    field = Field(make_parts([[UNIT, {**SMALL, "way": way}]]), dense)
    points = at((0.0, 0.0, 0.0), (0.9, 0.0, 0.0), (1.1, 0.0, 0.0), (2.0, 0.0, 0.0))
    assert field.distance(points)[0].tolist() == pytest.approx(expected, abs=1e-6)


@DENSE
def test_ways_apply_in_order(dense: bool) -> None:
    """Carved and filled again is full; filled and carved is empty."""
    unit, hole = {**UNIT, "size": (0.3, 0.3, 0.3)}, {**UNIT, "size": (0.2, 0.2, 0.2), "way": CARVE}
    plug = {**hole, "size": (0.1, 0.1, 0.1), "way": JOIN}
    for order, expected in (([unit, hole, plug], -0.1), ([unit, plug, hole], 0.2)):
        found = Field(make_parts([order]), dense).distance(at((0.0, 0.0, 0.0)))
        assert float(found) == pytest.approx(expected, abs=1e-6)


@DENSE
@pytest.mark.parametrize("way", [JOIN, CARVE, COMMON])
def test_fillets_are_polynomial(way: int, dense: bool) -> None:
    """min(a, b) - max(r - |a - b|, 0)^2 / 4 r, with signs for the other ways."""
    parts = [[UNIT, {**SMALL, "way": way, "fillet": 0.3}]]
    points = scattered(1, 400)
    a, b = (
        Field(make_parts([[part]]), dense=False).distance(points).double() for part in (UNIT, SMALL)
    )
    if way != JOIN:
        a = -a
    if way == COMMON:
        b = -b
    smooth = torch.minimum(a, b) - (0.3 - (a - b).abs()).clamp(min=0) ** 2 / (4 * 0.3)
    expected = smooth if way == JOIN else -smooth
    found = Field(make_parts(parts), dense).distance(points)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    sharp = Field(make_parts([[UNIT, {**SMALL, "way": way}]]), dense).distance(points)
    assert float((found - sharp).abs().max()) == pytest.approx(0.3 / 4, abs=0.02)


@DENSE
def test_a_part_has_its_own_place_and_axes(dense: bool) -> None:
    """A needle along the diagonal of the x and y axes."""
    s = math.sqrt(0.5)
    axes = ((-s, s, 0.0), (0.0, 0.0, -1.0), (-s, -s, 0.0))
    needle = {"kind": "capsule", "size": (0.1, 0.1, 1.0), "axes": axes, "centre": (1.0, 0.0, 0.5)}
    field = Field(make_parts([[needle]]), dense)
    tip = 1 + s
    points = at((tip, s, 0.5), (tip + s, 2 * s, 0.5), (1 + s, -s, 0.5), (1.0, 0.0, 1.5))
    expected = (0.0, 1.0, math.hypot(1.0, 0.0) - 0.1, 0.9)
    assert field.distance(points)[0].tolist() == pytest.approx(expected, abs=1e-5)


@DENSE
def test_the_nearest_part_owns_a_point(dense: bool) -> None:
    hole = {**UNIT, "size": (0.5, 0.5, 0.5), "way": CARVE, "centre": (0.0, 0.0, 1.0)}
    field = Field(make_parts([[UNIT, SMALL, hole]]), dense)
    points = at((-1.0, 0.2, 0.1), (1.25, 0.1, 0.0), (0.1, 0.1, 0.5), (0.5, 0.0, 0.8))
    assert field.owned(points)[0].tolist() == [0, 1, 2, 2]
    assert field.owned(points).dtype == torch.int64


@DENSE
def test_normals_are_unit_gradients(dense: bool) -> None:
    field = Field(make_parts([[{"kind": "ellipsoid"}]]), dense)
    points = torch.nn.functional.normalize(scattered(1, 50), dim=0)
    normals, distance = field.normal(points, 1e-3)
    torch.testing.assert_close(normals, points, atol=2e-3, rtol=0)
    assert float(distance.abs().max()) < 1e-5
    normals, distance = field.normal(1.5 * points, 1e-3)
    torch.testing.assert_close(distance, torch.full_like(distance, 0.5), atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------ folding


def lump(centre: tuple[float, float, float]) -> dict:
    """A part without symmetries of its own."""
    return {
        "kind": "relief",
        "size": (0.3, 0.4, 0.5),
        "traits": (0.7, 0.3),
        "axes": rotations(3, 1)[0].tolist(),
        "centre": centre,
    }


def turned(points: Tensor, angle: float) -> Tensor:
    x, y, z = points
    c, s = math.cos(angle), math.sin(angle)
    return torch.stack([c * x - s * y, s * x + c * y, z])


@DENSE
def test_a_mirror_shows_every_part_twice(dense: bool) -> None:
    parts = [[lump((0.7, 0.2, 0.1))]]
    field, plain = Field(make_parts(parts, [MIRROR]), dense), Field(make_parts(parts), dense)
    points = scattered(1, 300)
    image = points * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    assert torch.equal(field.distance(points), field.distance(image))
    assert torch.equal(field.owned(points), field.owned(image))
    right = points[:, :, points[0, 0] > 0]
    torch.testing.assert_close(field.distance(right), plain.distance(right))
    centre = at((-0.7, 0.2, 0.1))
    assert float(field.distance(centre)) < 0 < float(plain.distance(centre))


@DENSE
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_turns_and_mirrors_about_the_axis(n: int, dense: bool) -> None:
    centre = (0.75, 0.1, 0.1)
    field = Field(make_parts([[lump(centre)]], [n]), dense)
    points = scattered(1, 300)
    expected = field.distance(points)
    for k in range(n):
        image = turned(points, 2 * math.pi * k / n)
        torch.testing.assert_close(field.distance(image), expected, atol=1e-5, rtol=0)
        flipped = image * torch.tensor([1.0, -1.0, 1.0])[:, None, None]
        torch.testing.assert_close(field.distance(flipped), expected, atol=1e-5, rtol=0)
        assert float(field.distance(turned(at(centre), 2 * math.pi * k / n))) < 0
    elsewhere = turned(points, math.pi / n)  # half a turn is no symmetry
    assert float((field.distance(elsewhere) - expected).abs().max()) > 0.1
    radius = torch.hypot(*points[:2])
    folded = field.fold(points)
    torch.testing.assert_close(torch.hypot(*folded[:2]), radius)
    angle = torch.atan2(folded[1], folded[0])
    assert -1e-6 <= float(angle.min()) < float(angle.max()) <= math.pi / n + 1e-6


# -------------------------------------------------------------------------- several objects at once


def test_all_objects_at_once_are_those_one_by_one() -> None:
    parts = ProceduralObjects(seed=2, max_parts=5).batch(range(24)).parts
    assert {JOIN, CARVE, COMMON} == set(parts.ways.flatten().tolist())
    assert {0, MIRROR} < set(parts.folds.tolist())
    assert bool((parts.fillets > 0).any())
    assert bool((parts.kinds == ABSENT).any())
    dense, points = Field(parts, dense=True), scattered(24, 200)
    distance, owner, folded = dense.distance(points), dense.owned(points), dense.fold(points)
    normals, means = dense.normal(points, 1.5e-3)
    for b in range(24):
        single, own = alone(parts, b), points[:, b : b + 1]
        torch.testing.assert_close(distance[b], single.distance(own)[0], atol=2e-5, rtol=0)
        torch.testing.assert_close(folded[:, b], single.fold(own)[:, 0], atol=1e-6, rtol=0)
        assert float((owner[b] == single.owned(own)[0]).float().mean()) > 0.99
        normal, mean = single.normal(own, 1.5e-3)
        torch.testing.assert_close(means[b], mean[0], atol=2e-5, rtol=0)
        assert float(((normals[:, b] * normal[:, 0]).sum(0) > 0.999).float().mean()) > 0.98


def test_objects_of_fewer_parts_ignore_what_pads_them() -> None:
    """Other columns say fillet, carve and a fold; a lonely box stays a box."""
    carved = [UNIT, {**SMALL, "way": CARVE, "fillet": 0.2}, {**SMALL, "way": COMMON}]
    parts = make_parts([[UNIT], carved, [UNIT, SMALL]], [0, 3, MIRROR])
    points = scattered(3, 100)
    found = Field(parts, dense=True).distance(points)
    box = Field(make_parts([[UNIT]]), dense=False).distance(points[:, :1])
    torch.testing.assert_close(found[:1], box, atol=1e-6, rtol=0)


def test_only_dense_fields_have_several_objects() -> None:
    with pytest.raises(ValueError, match="has one object, got 2"):
        Field(make_parts([[UNIT], [UNIT]]), dense=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_distances_outside_never_change_faster_than_points_move(seed: int) -> None:
    """Joining, carving, fillets and folds keep spheres free."""
    parts = ProceduralObjects(seed, max_parts=6).batch(range(30)).parts
    field, points = Field(parts, dense=True), scattered(30, 600, 2.5)
    step = 2e-3 * torch.nn.functional.normalize(scattered(30, 600)[[2, 0, 1]], dim=0)
    here, there = field.distance(points), field.distance(points + step)
    slope = (there - here).abs()[(here > 0) & (there > 0)] / 2e-3
    assert float((slope > 1.02).float().mean()) < 2e-3
