"""What a camera sees of surfaces: patterns on parts, pictures on boxes, lamps, nooks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastrecon.data.procedural.field import CARVE, MIRROR
from fastrecon.data.procedural.scene import Scene
from fastrecon.data.procedural.surface import Lights
from fastrecon.data.procedural.textures import PATTERNS, PICTURE, checker, stripes, waves
from tests.data.procedural.solids import DenseScene, even_light, make_scene

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
WAYS = pytest.mark.parametrize("kind_of_scene", [Scene, DenseScene])
BALL = {"kind": "ellipsoid", "colours": ((1.0, 0.5, 0.25), BLUE)}


def seen(scene: Scene, origin: tuple[float, ...], direction: tuple[float, ...]) -> list[float]:
    found = scene.trace(torch.tensor([[origin]]), torch.tensor([[direction]]))
    assert float(found.mask) == 1
    return found.rgb[0, 0].tolist()


def colour_at(y: float, z: float, kind_of_scene: type[Scene] = Scene, **part) -> list[float]:
    """What a ray along -x sees of a unit box at (1, y, z), under even light."""
    fold = [part.pop("fold", 0)]
    scene = make_scene([[{"kind": "box", "colours": (RED, BLUE), **part}]], fold)
    scene = scene if kind_of_scene is Scene else DenseScene.of(scene)
    return seen(scene, (3.0, y, z), (-1.0, 0.0, 0.0))


@WAYS
def test_checker_alternates_along_both_axes(kind_of_scene) -> None:
    rows = ((0.5, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    part = {"pattern": PATTERNS.index(checker), "rows": rows}
    assert colour_at(0.5, 0.5, kind_of_scene, **part) == pytest.approx(RED)
    assert colour_at(-0.5, 0.5, kind_of_scene, **part) == pytest.approx(BLUE)
    assert colour_at(0.5, -0.5, kind_of_scene, **part) == pytest.approx(BLUE)
    assert colour_at(-0.5, -0.5, kind_of_scene, **part) == pytest.approx(RED)
    part["phases"] = (0.0, 1.0, 0.0)
    assert colour_at(0.5, 0.5, kind_of_scene, **part) == pytest.approx(BLUE)


def test_solid_shows_the_first_colour() -> None:
    assert colour_at(0.3, -0.7) == pytest.approx(RED)


def test_waves_mix_colours() -> None:
    part = {"pattern": PATTERNS.index(waves), "rows": ((0.0, 0.0, 1.0),) * 3}
    for z, mix in ((0.25, 1.0), (-0.25, 0.0), (0.5, 0.5), (1 / 12, 0.75)):
        assert colour_at(0.0, z, **part) == pytest.approx((1 - mix, 0.0, mix), abs=1e-3)


def test_patterns_live_in_their_part_s_frame() -> None:
    """Turned a quarter and moved, the box's own x runs along the world's y."""
    part = {
        "pattern": PATTERNS.index(stripes),
        "rows": ((1.0, 0.0, 0.0),) * 3,
        "axes": ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
        "centre": (0.0, 0.25, 0.0),
    }
    assert colour_at(0.3, 0.2, **part) == pytest.approx(RED)
    assert colour_at(0.2, 0.2, **part) == pytest.approx(BLUE)


def test_texture_is_folded_with_the_shape() -> None:
    part = {"pattern": PATTERNS.index(stripes), "rows": ((1.0, 0.0, 0.0),) * 3}
    for fold, expected in ((0, BLUE), (MIRROR, RED)):
        scene = make_scene([[{"kind": "box", "colours": (RED, BLUE), **part}]], [fold])
        assert seen(scene, (0.5, 3.0, 0.0), (0.0, -1.0, 0.0)) == pytest.approx(RED)
        assert seen(scene, (-0.5, 3.0, 0.0), (0.0, -1.0, 0.0)) == pytest.approx(expected)


@WAYS
def test_parts_keep_their_materials(kind_of_scene) -> None:
    """Carving shows the tool's; one material on all parts is one colour everywhere."""
    box = {"kind": "box", "colours": (RED, RED)}
    tool = {**box, "size": (0.5,) * 3, "centre": (1.0, 0.0, 0.0), "way": CARVE}
    for colours, expected in (((BLUE, BLUE), BLUE), ((RED, RED), RED)):
        scene = make_scene([[box, {**tool, "colours": colours}]])
        scene = scene if kind_of_scene is Scene else DenseScene.of(scene)
        assert seen(scene, (3.0, 0.1, 0.1), (-1.0, 0.0, 0.0)) == pytest.approx(expected)
        assert seen(scene, (3.0, 0.8, 0.1), (-1.0, 0.0, 0.0)) == pytest.approx(RED)


@WAYS
def test_a_picture_lies_on_the_side_that_one_looks_at(kind_of_scene) -> None:
    """A flat picture whose red rises along its first axis and green along its second."""
    ticks = torch.linspace(0, 1, 24)
    picture = torch.stack(
        [ticks.expand(24, 24), ticks[:, None].expand(24, 24), 0 * ticks.expand(24, 24)]
    )
    part = {"pattern": PICTURE, "rows": torch.eye(3).mul(0.5).tolist(), "phases": (0.5,) * 3}
    scene = make_scene([[{"kind": "box", **part}]], pictures=picture[None])
    scene = scene if kind_of_scene is Scene else DenseScene.of(scene)
    for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
        for end in (3.0, -3.0):
            origin = [0.0, 0.0, 0.0]
            origin[axis], origin[first], origin[second] = end, 0.4, -0.6
            direction = [0.0, 0.0, 0.0]
            direction[axis] = -end / 3
            colour = seen(scene, tuple(origin), tuple(direction))
            assert colour == pytest.approx([0.7, 0.2, 0.0], abs=3e-3)


# -------------------------------------------------------------------------------------------- light


def light_on(lights: Lights, normal: tuple[float, float, float]) -> Tensor:
    return lights.on(torch.tensor(normal, dtype=torch.float32)[:, None, None])[:, 0, 0]


def test_sky_and_ground_mix_by_height() -> None:
    lights = even_light(1, sky=[1.0, 0.8, 0.6], ground=[0.2, 0.0, 0.4])
    assert light_on(lights, (0, 0, 1)).tolist() == pytest.approx([1.0, 0.8, 0.6])
    assert light_on(lights, (0, 0, -1)).tolist() == pytest.approx([0.2, 0.0, 0.4])
    assert light_on(lights, (1, 0, 0)).tolist() == pytest.approx([0.6, 0.4, 0.5])


def test_lamps_fall_off_with_the_cosine_and_light_no_backs() -> None:
    dark = {"sky": [0.0] * 3, "ground": [0.0] * 3}
    towards = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    lights = even_light(1, **dark, towards=towards, lamps=[[0.6] * 3, [0.4, 0.2, 0.0]])
    assert light_on(lights, (0.6, 0.0, 0.8)).tolist() == pytest.approx([0.72, 0.6, 0.48])
    assert light_on(lights, (0.0, 0.0, -1.0)).tolist() == [0.0] * 3


@WAYS
def test_a_lamp_stays_with_the_world(kind_of_scene) -> None:
    """An object that is turned shows its lit side to the lamp."""
    lights = even_light(1, sky=[0.5] * 3, ground=[0.5] * 3, lamps=[[0.5] * 3])  # from +x
    scene = make_scene([[BALL]], lights=lights)
    quarter = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    scene = kind_of_scene(*(getattr(scene, n) for n in scene.__dataclass_fields__))
    turned = kind_of_scene(
        scene.parts,
        scene.materials,
        lights,
        quarter,
        scene.scales,
        scene.shifts,
        scene.surface,
    )
    for own in (scene, turned):
        lit = seen(own, (3.0, 0.0, 0.0), (-1.0, 0.0, 0.0))
        assert lit == pytest.approx([1.0, 0.5, 0.25], abs=1e-3)
        for axis in ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)):
            found = seen(own, tuple(3 * a for a in axis), tuple(-a for a in axis))
            assert found == pytest.approx([0.5, 0.25, 0.125], abs=2e-3)


@WAYS
def test_nooks_are_darker(kind_of_scene) -> None:
    """At the foot of a wall, 0.02 away, nearly all of the reach is closed; far away nothing is."""
    floor = {"kind": "box", "size": (1.0, 1.0, 0.1)}
    wall = {"kind": "box", "size": (0.1, 1.0, 0.1), "centre": (0.0, 0.0, 0.2)}
    colours = []
    for occlusion in (0.0, 0.5):
        scene = make_scene([[floor, wall]], lights=even_light(1, occlusion=occlusion))
        scene = kind_of_scene(*(getattr(scene, n) for n in scene.__dataclass_fields__))
        colours += [seen(scene, (x, 0.0, 3.0), (0.0, 0.0, -1.0))[0] for x in (0.12, 0.6)]
    assert colours[:2] == pytest.approx([1.0, 1.0])
    assert colours[2] == pytest.approx(1 - 0.5 * (1 - 0.02 / 0.12), abs=0.01)
    assert colours[3] == pytest.approx(1.0, abs=0.01)


def test_colours_never_leave_the_unit_range() -> None:
    lights = even_light(1, sky=[3.0] * 3, lamps=[[2.0] * 3])
    found = seen(make_scene([[BALL]], lights=lights), (3.0, 0.0, 0.0), (-1.0, 0.0, 0.0))
    assert found == [1.0, 1.0, 1.0]
