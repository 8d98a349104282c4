"""Procedural objects: functions of (seed, index), connected, in the unit sphere, half symmetric."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.measure import label
from torch import Tensor

from fastrecon.cameras import orbit_c2w
from fastrecon.data.procedural import ProceduralObjects, uniforms
from fastrecon.data.procedural.composition import CARVE_SHARE
from fastrecon.data.procedural.draws import Draws
from fastrecon.data.procedural.field import ABSENT, CARVE, COMMON, JOIN, MIRROR
from fastrecon.data.procedural.scene import Scene
from fastrecon.data.procedural.solids import SOLIDS
from fastrecon.data.procedural.textures import PATTERNS, PICTURE
from tests.data.procedural.solids import even_light, inward_rays, make_scene

N, FEWER, MOST = 72, 32, 9


@pytest.fixture(scope="module")
def many() -> Scene:
    return ProceduralObjects(seed=5, max_parts=MOST).batch(range(N))


def is_same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------------------------- determinism


def test_uniform_numbers_are_a_function_of_seed_and_index() -> None:
    first = uniforms(3, 2**40 + 1, 1000)
    assert np.array_equal(first, uniforms(3, 2**40 + 1, 1000))
    assert np.array_equal(first[:10], uniforms(3, 2**40 + 1, 10))
    for other in (uniforms(4, 2**40 + 1, 1000), uniforms(3, 2**40 + 2, 1000)):
        assert np.intersect1d(first, other).size == 0
    assert first.min() >= 0
    assert first.max() < 1
    assert abs(first.mean() - 0.5) < 0.05


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1), (2**64, 0), (0, 2**64)])
def test_seeds_and_indices_outside_64_bits_are_refused(seed: int, index: int) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 2\*\*64\)"):
        uniforms(seed, index, 1)


def test_draws_are_handed_out_once() -> None:
    table = np.random.default_rng(0).random((2000, 12))
    draws = Draws(table)
    assert np.array_equal(draws.take(2, 1.0, 3.0), 1 + 2 * table[:, :2])
    assert np.array_equal(draws.one(), table[:, 2])
    chosen = draws.choice((0.2, 0.5, 0.3))
    shares = np.bincount(chosen) / len(chosen)
    assert shares.tolist() == pytest.approx([0.2, 0.5, 0.3], abs=0.05)
    unit = draws.unit_vectors()
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1.0)
    assert np.abs(unit.mean(0)).max() < 0.05
    turns = draws.rotations()
    np.testing.assert_allclose(
        turns @ turns.swapaxes(1, 2), np.broadcast_to(np.eye(3), turns.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(turns), 1.0)
    assert np.abs(turns.mean(0)).max() < 0.06
    assert draws.used == 9
    with pytest.raises(ValueError, match="only 12 numbers were drawn"):
        draws.take(4)


def test_an_object_does_not_depend_on_its_batch() -> None:
    objects, indices = ProceduralObjects(seed=7), [5, 2**40, 0, 11]
    rays_o, rays_d = inward_rays(0, 1, 200)
    c2w = orbit_c2w(0.5, 0.3, 2.2).expand(1, 1, 4, 4)
    batch = objects.batch(indices)
    assert len(batch) == 4
    together = batch.trace(rays_o.expand(4, -1, 3), rays_d.expand(4, -1, 3))
    pictures = batch.render(c2w.expand(4, 1, 4, 4), 12, 50.0)
    for i, index in enumerate(indices):
        scene = objects.batch([index])
        for alone, all_ in (
            (scene.trace(rays_o, rays_d), together),
            (scene.render(c2w, 12, 50.0), pictures),
        ):
            for x, y in zip(alone, all_, strict=True):
                torch.testing.assert_close(x, y[i : i + 1], atol=1e-4, rtol=0)


def test_objects_are_the_same_at_every_call() -> None:
    rays = inward_rays(0, 3, 100)
    first = ProceduralObjects(seed=7).batch([4, 8, 15]).trace(*rays)
    torch.rand(3)
    np.random.rand(3)
    again = ProceduralObjects(seed=7).batch(torch.tensor([4, 8, 15])).trace(*rays)
    assert is_same(first, again)


def test_seeds_and_indices_give_different_objects() -> None:
    rays_o, rays_d = inward_rays(0, 1, 300, spread=0.7)
    found = [
        ProceduralObjects(seed=seed).batch([index]).trace(rays_o, rays_d).depth
        for seed, index in ((0, 0), (1, 0), (0, 1), (1, 1))
    ]
    for i, a in enumerate(found):
        for b in found[:i]:
            assert float((a != b).float().mean()) > 0.2


def test_bad_collections_are_refused() -> None:
    with pytest.raises(ValueError, match="max_parts must be at least 1, got 0"):
        ProceduralObjects(seed=0, max_parts=0)
    with pytest.raises(ValueError, match="at least one object"):
        ProceduralObjects(seed=0).batch([])


# ------------------------------------------------------------------------------------------- shape


def test_part_counts_kinds_and_ways(many: Scene) -> None:
    parts = many.parts
    present = parts.kinds != ABSENT
    counts = torch.bincount(present.sum(1), minlength=MOST + 1)
    assert counts[0] == 0
    assert bool((counts[1:] > 0).all()), counts
    assert counts[1:4].sum() > counts[7:].sum(), "few parts are likelier"
    occurring = torch.bincount(parts.kinds[present], minlength=len(SOLIDS))
    assert bool((occurring > 5).all()), occurring
    assert bool((torch.sort(present.int(), dim=1, descending=True).values == present).all())
    ways = torch.bincount(parts.ways[:, 1:][present[:, 1:]], minlength=3) / present[:, 1:].sum()
    assert 0.5 * CARVE_SHARE < float(ways[CARVE]) < 1.1 * CARVE_SHARE
    assert 0 < float(ways[COMMON]) < 0.06
    assert bool((parts.ways[:, 0] == JOIN).all())
    filleted = (parts.fillets > 0)[present]
    assert 0.15 < float(filleted.float().mean()) < 0.4
    assert bool((parts.fillets[:, 0] == 0).all())
    assert 0.3 < float((parts.folds > 0).float().mean()) < 0.7
    assert set(parts.folds.tolist()) == {0, MIRROR, 2, 3, 4, 5}
    turns = parts.axes @ parts.axes.mT
    torch.testing.assert_close(turns, torch.eye(3).expand_as(turns), atol=1e-5, rtol=0)


def test_rings_neither_carve_nor_are_cut(many: Scene) -> None:
    parts = many.parts
    ring = torch.tensor([solid.ring for solid in SOLIDS])[parts.kinds] & (parts.kinds != ABSENT)
    assert bool(ring.any())
    assert not bool((ring & (parts.ways != JOIN)).any())


def test_objects_are_centred_and_touch_the_unit_sphere(many: Scene) -> None:
    points = many.points
    torch.testing.assert_close(points.norm(dim=-1).amax(1), torch.ones(N), atol=1e-4, rtol=0)
    middle = points.amin(1) + points.amax(1)
    torch.testing.assert_close(middle, torch.zeros(N, 3), atol=1e-4, rtol=0)
    off = many.distance(points).abs()
    assert float((off < 0.01).float().mean()) > 0.97
    assert float(off.max()) < 0.05


def test_hits_lie_in_the_unit_sphere(many: Scene) -> None:
    rays_o, rays_d = inward_rays(3, N, 40, spread=0.8)
    found = many.trace(rays_o, rays_d)
    reach = ((rays_o + found.depth[..., None] * rays_d).norm(dim=-1) * found.mask).amax(1)
    assert float(reach.max()) <= 1.06  # its sphere is that of points on its surface
    assert float((reach <= 1.01).float().mean()) > 0.9
    assert bool((found.mask.sum(1) > 0).all()), "every object is seen"


def pieces(scene: Scene, b: int, side: int = 48) -> list[int]:
    """Sizes of the connected solids of an object in voxels, the largest first."""
    ticks = (torch.arange(side) + 0.5) / side * 2.1 - 1.05
    grid = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(1, -1, 3)
    # Thin wires are as thick as half a voxel at least, so that sampling does not tear them.
    inside = scene.rows(slice(b, b + 1)).distance(grid)[0] < 0.9 / side
    labels = np.asarray(label(inside.reshape((side,) * 3).numpy(), connectivity=3))
    sizes = np.bincount(labels.flatten())[1:]
    return sorted(sizes.tolist(), reverse=True)


def test_objects_are_connected() -> None:
    """What lies apart was cut off by a carving part, or touched one that was."""
    scene = ProceduralObjects(seed=8, max_parts=6).batch(range(40))
    found = [pieces(scene, b) for b in range(40)]
    assert all(found)
    whole = np.array([sizes[0] >= 0.99 * sum(sizes) for sizes in found])
    assert whole.mean() >= 0.9, [sizes for sizes in found if len(sizes) > 1]
    plain = (scene.parts.ways == JOIN).all(1).numpy()
    assert whole[plain].mean() >= 0.95


def test_pieces_are_counted() -> None:
    ball = {"kind": "ellipsoid", "size": (0.3,) * 3, "centre": (-0.5, 0.0, 0.0)}
    for x, count in ((0.0, 1), (0.5, 2)):
        scene = make_scene([[ball, {**ball, "centre": (x, 0.0, 0.0)}]])
        assert len(pieces(scene, 0)) == count


# ---------------------------------------------------------------------------------------- symmetry


def images(scene: Scene, vectors: Tensor, shifted: bool) -> Tensor:
    """World vectors (B, N, 3) after one symmetry of each object: its mirror, or its turn."""
    folds = scene.parts.folds
    angle = 2 * math.pi / folds.clamp(min=2)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(len(folds))
    turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], -1)
    mirror = torch.tensor([-1.0, 1.0, 1.0]).diag()
    own = torch.where((folds > MIRROR)[:, None, None], turn.unflatten(-1, (3, 3)), mirror)
    world = scene.turns @ own @ scene.turns.mT
    centre = scene.shifts[:, None] if shifted else 0.0
    return (vectors - centre) @ world.mT + centre


def test_half_of_the_objects_are_symmetric_in_shape_and_texture(many: Scene) -> None:
    many = many.rows(slice(0, FEWER))
    unlit = replace(many, lights=even_light(FEWER))
    rays_o, rays_d = inward_rays(4, FEWER, 60, spread=0.7)
    image_o, image_d = images(many, rays_o, True), images(many, rays_d, False)
    there, here = unlit.trace(rays_o, rays_d), unlit.trace(image_o, image_d)
    points = inward_rays(5, FEWER, 80, radius=1.0)[0] * 0.6
    off = (many.distance(points) - many.distance(images(many, points, True))).abs()
    folded = many.parts.folds > 0
    assert float(off[folded].max()) < 1e-4
    same = (there.depth - here.depth).abs() < 5e-3
    colour = (there.rgb - here.rgb).abs().amax(-1) < 0.02
    assert float(same[folded].float().mean()) > 0.99
    assert float(colour[folded].float().mean()) > 0.98
    several = (many.parts.kinds != ABSENT).sum(1) > 2
    chance = (off.amax(1) < 1e-4) & several & ~folded
    assert float(chance.sum() / (several & ~folded).sum()) < 0.1
    # Lamps stay where they are: shading differs between the two sides.
    there, here = many.trace(rays_o, rays_d), many.trace(image_o, image_d)
    differs = ((there.rgb - here.rgb).abs().amax(-1) > 0.02) & (there.mask == 1)
    assert float(differs[folded].sum() / there.mask[folded].sum()) > 0.3


# ------------------------------------------------------------------------------- colour and light


def test_materials_are_varied_and_within_range(many: Scene) -> None:
    present, materials = many.parts.kinds != ABSENT, many.materials
    assert float(materials.colours.min()) >= 0
    assert float(materials.colours.max()) <= 1
    assert float(materials.pictures.min()) >= 0
    assert float(materials.pictures.max()) <= 1
    share = torch.bincount(materials.patterns[present], minlength=PICTURE + 1) / present.sum()
    assert float(share[0]) == pytest.approx(0.35, abs=0.12)
    assert float(share[PICTURE]) == pytest.approx(0.15, abs=0.07)
    assert bool((share > 0.015).all())
    assert len(share) == len(PATTERNS) + 1
    shown = present & (materials.patterns == PICTURE)
    assert sorted(materials.picture_of[shown].tolist()) == list(range(len(materials.pictures)))


def test_a_quarter_of_the_objects_has_one_material(many: Scene) -> None:
    materials = many.materials
    picture = materials.patterns == PICTURE
    alike = (materials.colours == materials.colours[:, :1]).flatten(2).all(2)
    alike &= materials.patterns == materials.patterns[:, :1]
    alike |= picture | (many.parts.kinds == ABSENT)
    several = ((many.parts.kinds != ABSENT) & ~picture).sum(1) > 1
    several &= ~picture[:, 0]
    assert 0.08 < float(alike[several].all(1).float().mean()) < 0.45


def test_light_is_within_range_and_uneven(many: Scene) -> None:
    lights = many.lights
    assert all(float(x.min()) >= 0 for x in (lights.sky, lights.ground, lights.lamps))
    for unit in (lights.up, lights.towards):
        norms = unit.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert bool((lights.towards[:, 0, 2] >= 0).all()), "the first lamp is above"
    lamps = (lights.lamps > 0).any(-1)
    assert bool(lamps[:, 0].all())
    assert 0.4 < float(lamps[:, 1:].any(1).float().mean()) < 0.9
    many = many.rows(slice(0, FEWER))
    rays_o, rays_d = inward_rays(4, FEWER, 40, spread=0.7)
    found = many.trace(rays_o, rays_d)
    albedo = replace(many, lights=even_light(FEWER)).trace(rays_o, rays_d).rgb
    assert float(found.rgb.min()) >= 0
    assert float(found.rgb.max()) <= 1
    shade = found.rgb.sum(-1) / albedo.sum(-1).clamp_min(1e-6)
    lit = albedo.sum(-1) > 0.05
    assert 0.3 < float(shade[lit].mean()) < 1.0
    assert float(shade[lit].std()) > 0.1


def test_scenes_know_their_device_and_rows(many: Scene) -> None:
    some = many.rows(slice(3, 6))
    assert len(some) == 3
    assert some.device.type == "cpu"
    rays_o, rays_d = inward_rays(0, 6, 30)
    all_ = many.rows(slice(0, 6)).trace(rays_o, rays_d)
    assert is_same(some.trace(rays_o[3:], rays_d[3:]), [x[3:] for x in all_])
