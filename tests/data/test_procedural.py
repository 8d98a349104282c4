"""Procedural objects: functions of (seed, index), connected, in the unit sphere, half mirrored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fastrecon.cameras import orbit_c2w
from fastrecon.data.bounds import ABSENT, Bodies
from fastrecon.data.primitives import PRIMITIVES
from fastrecon.data.procedural import ProceduralObjects, uniforms
from fastrecon.data.scene import Scene
from tests.data.solids import inward_rays, make_scene


@pytest.fixture(scope="module")
def many() -> Scene:
    return ProceduralObjects(seed=5, max_parts=5).batch(range(200))


def directions(n: int) -> np.ndarray:
    """n unit vectors spread evenly over the sphere (a Fibonacci lattice), (n, 3)."""
    i = np.arange(n)
    z = 1 - (2 * i + 1) / n
    angle = i * np.pi * (3 - 5**0.5)
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1)


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
        assert is_same(scene.trace(rays_o, rays_d), [x[i : i + 1] for x in together])
        assert is_same(scene.render(c2w, 12, 50.0), [x[i : i + 1] for x in pictures])


def test_objects_are_the_same_at_every_call() -> None:
    rays = inward_rays(0, 3, 100)
    first = ProceduralObjects(seed=7).batch([4, 8, 15]).trace(*rays)
    torch.rand(3)
    np.random.rand(3)
    again = ProceduralObjects(seed=7).batch(torch.tensor([4, 8, 15])).trace(*rays)
    assert is_same(first, again)


def test_seeds_and_indices_give_different_objects() -> None:
    rays_o, rays_d = inward_rays(0, 1, 300)
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


def test_part_counts_and_kinds_are_evenly_spread(many: Scene) -> None:
    kinds = many.bodies.kinds
    counts = np.bincount((kinds != ABSENT).sum(1), minlength=6)
    assert counts[0] == 0
    assert bool((counts[1:] > 20).all()), counts  # 40 each on average, deviation 6
    assert bool((np.bincount(kinds[kinds != ABSENT], minlength=len(PRIMITIVES)) > 50).all())
    # Padding comes last.
    assert bool((np.sort(kinds == ABSENT, axis=1) == (kinds == ABSENT)).all())


def test_objects_are_centred_and_touch_the_unit_sphere(many: Scene) -> None:
    bodies = many.bodies
    n = np.broadcast_to(directions(400), (*bodies.kinds.shape, 400, 3))
    points = bodies.support(n)
    reach = np.nanmax(np.linalg.norm(points, axis=-1), axis=(1, 2))
    assert reach.min() > 0.97  # 400 directions come near the farthest point
    # The farthest point is followed from eight directions a part and may rarely be a nearer one.
    assert np.quantile(reach, 0.9) <= 1.001
    assert reach.max() <= 1.05
    np.testing.assert_allclose(bodies.reach(), 1.0, atol=1e-6)
    low, high = bodies.box()
    np.testing.assert_allclose(low + high, 0.0, atol=1e-9)


def test_hits_lie_in_the_unit_sphere(many: Scene) -> None:
    rays_o, rays_d = inward_rays(3, len(many), 100)
    found = many.trace(rays_o, rays_d)
    points = rays_o + found.depth[..., None] * rays_d
    assert float((points.norm(dim=-1) * found.mask).max()) <= 1.05
    assert bool((found.mask.sum(1) > 0).all()), "every object is seen"


def gap(bodies: Bodies, b: int, first: int, second: int) -> float:
    """Widest gap that one of 1500 planes finds between two convex parts; > 0: they are apart."""
    n = np.broadcast_to(directions(1500), (1, bodies.kinds.shape[1], 1500, 3))
    own = Bodies(*(x[b : b + 1] for x in vars(bodies).values()))
    far = (own.support(n) * n).sum(-1)[0]
    near = (own.support(-n) * n).sum(-1)[0]
    return float((near[second] - far[first]).max())


def test_the_gap_between_two_boxes() -> None:
    small = {"kind": "box", "size": (0.3, 0.3, 0.3)}
    scene = make_scene([[small, {**small, "centre": (0.0, 0.0, x)}] for x in (0.5, 0.7)])
    assert gap(scene.bodies, 0, 0, 1) < 0
    assert 0.05 < gap(scene.bodies, 1, 0, 1) <= 0.1


def test_objects_are_connected(many: Scene) -> None:
    """No plane separates the parts that would have to touch: the overlaps form one component."""
    for b in range(40):
        n_parts = int((many.bodies.kinds[b] != ABSENT).sum())
        reached, waiting = {0}, set(range(1, n_parts))
        while waiting:
            joined = {k for k in waiting if any(gap(many.bodies, b, j, k) <= 0 for j in reached)}
            assert joined, f"parts {waiting} of object {b} are apart from {reached}"
            reached, waiting = reached | joined, waiting - joined


# ---------------------------------------------------------------------------------------- symmetry


def mirrored(scene: Scene, rays: Tensor, is_direction: bool = False) -> Tensor:
    """Rays (B, N, 3) reflected in the vertical plane across the first part's own x axis.

    The first part of a symmetric object stands on the mirror plane and its x axis across it.
    """
    normal = torch.from_numpy(scene.bodies.linear[:, 0, :, 0])
    normal = torch.nn.functional.normalize(normal, dim=-1)[:, None]
    centre = 0.0 if is_direction else torch.from_numpy(scene.bodies.centres[:, :1])
    height = ((rays - centre) * normal).sum(-1, keepdim=True)
    return (rays - 2 * height * normal).float()


def test_half_of_the_objects_are_their_own_mirror_image(many: Scene) -> None:
    unlit = replace(many, ambient=np.ones(len(many)), lights=np.zeros((len(many), 2, 3)))
    rays_o, rays_d = inward_rays(4, len(many), 150)
    there = unlit.trace(rays_o, rays_d)
    mirrored_d = mirrored(many, rays_d, is_direction=True)
    here = unlit.trace(mirrored(many, rays_o), mirrored_d)
    same_depth = ((there.depth - here.depth).abs() < 1e-3).float().mean(1) > 0.98
    same_colour = ((there.rgb - here.rgb).abs().amax(-1) < 1e-3).float().mean(1) > 0.95
    upright = np.abs(many.bodies.linear[:, 0, 2, 0]) < 1e-9
    several = torch.from_numpy((many.bodies.kinds != ABSENT).sum(1) > 2)
    symmetric = same_depth & same_colour & torch.from_numpy(upright)
    # With three parts or more, chance makes no mirror images: 120 objects, deviation 0.05.
    assert 0.35 < float(symmetric[several].float().mean()) < 0.65
    # Texture is mirrored too, but where flat faces of a pair coincide one of them is seen.
    shaped = several & same_depth & torch.from_numpy(upright)
    assert float(same_colour[shaped].float().mean()) > 0.97
    # Lamps stay where they are: shading differs between the two sides.
    there, here = many.trace(rays_o, rays_d), many.trace(mirrored(many, rays_o), mirrored_d)
    differs = ((there.rgb - here.rgb).abs().amax(-1) > 1e-3) & (there.mask == 1)
    assert float(differs[symmetric].sum() / there.mask[symmetric].sum()) > 0.3


def test_light_only_darkens_and_not_evenly(many: Scene) -> None:
    rays_o, rays_d = inward_rays(4, len(many), 50)
    lit = many.trace(rays_o, rays_d).rgb
    unlit = replace(many, ambient=np.ones(len(many)), lights=np.zeros((len(many), 2, 3)))
    albedo = unlit.trace(rays_o, rays_d).rgb
    assert bool((lit <= albedo + 1e-6).all())
    shade = lit.sum(-1) / albedo.sum(-1).clamp_min(1e-6)
    hit = albedo.sum(-1) > 0
    assert float(shade[hit].min()) < 0.75
    assert float(shade[hit].max()) > 0.95


# ------------------------------------------------------------------------------- colour and light


def test_colours_and_light_stay_in_range(many: Scene) -> None:
    assert many.colours.min() >= 0
    assert many.colours.max() <= 1
    strengths = np.linalg.norm(many.lights, axis=-1)
    np.testing.assert_allclose(many.ambient + strengths.sum(-1), 1.0, atol=1e-12)
    assert many.ambient.min() > 0.3
    assert 0.3 < float((strengths[:, 1] > 0).mean()) < 0.7  # a second lamp for about half
    assert bool((many.lights[:, 0, 2] >= 0).all())  # the main lamp is above
    found = many.trace(*inward_rays(5, len(many), 100))
    assert float(found.rgb.min()) >= 0
    assert float(found.rgb.max()) <= 1 + 1e-6


def test_every_pattern_occurs(many: Scene) -> None:
    share = np.bincount(many.patterns[many.bodies.kinds != ABSENT]) / (many.bodies.kinds >= 0).sum()
    assert share == pytest.approx([0.3, 0.7 / 3, 0.7 / 3, 0.7 / 3], abs=0.07)


# ---------------------------------------------------------------------------------------- placement


def test_objects_are_fitted_to_the_view_or_held_by_the_sphere(many: Scene) -> None:
    """The bounding square has the wanted side and place, or else the object reaches its limit."""
    distance, max_reach = 1.9, 0.69
    rng = np.random.default_rng(0)
    half, offset = rng.uniform(0.25, 0.33, len(many)), rng.uniform(-0.02, 0.02, (len(many), 2))
    scene = many.fitted(distance, half, offset, max_reach)
    c2w = orbit_c2w(0.0, 0.0, torch.tensor(distance).double()).expand(len(many), 1, 4, 4)
    squares, reach = scene.squares(c2w)[:, 0].numpy(), scene.bodies.reach()
    np.testing.assert_allclose(squares[:, :2], offset, atol=1e-3)
    assert reach.max() <= max_reach + 1e-3
    assert bool((squares[:, 2] <= half + 1e-3).all())
    free = reach < max_reach - 5e-3
    assert 0.2 < free.mean() < 0.95
    np.testing.assert_allclose(squares[free, 2], half[free], rtol=5e-3)
    low, high = scene.bodies.box()
    np.testing.assert_allclose((low + high)[:, 0], 0.0, atol=5e-3)


def test_moving_scales_about_the_origin_then_shifts() -> None:
    scene = make_scene([[{"kind": "ellipsoid", "size": (0.5, 0.5, 0.5), "centre": (1.0, 0, 0)}]])
    moved = scene.moved(np.array([2.0]), np.array([[0.0, 0.0, 3.0]]))
    rays_o, rays_d = torch.tensor([[[9.0, 0.0, 3.0]]]), torch.tensor([[[-1.0, 0.0, 0.0]]])
    assert float(moved.trace(rays_o, rays_d).depth) == pytest.approx(9 - 3, abs=1e-5)
