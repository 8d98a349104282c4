"""The training stream: a function of the step, placed like a photograph, with true answers."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from fastrecon_kernels import RenderSettings
from torch import Tensor

from fastrecon.cameras import orbit_c2w
from fastrecon.config import Config, DataConfig, OptimConfig
from fastrecon.data.procedural import ProceduralObjects
from fastrecon.data.stream import (
    FOCUS_SHARE,
    HELD_OUT,
    OFFSET_JITTER,
    RATIO_JITTER,
    REACH,
    Batch,
    mean_image,
    procedural_batch,
    validation_set,
)
from tests.micro import micro_config

SIDE, B, V, R = 40, 12, 3, 150


def make_config(**overrides: Any) -> Config:
    model = micro_config()
    data: dict[str, Any] = {"seed": 1, "views": V, "rays_per_view": R} | overrides
    model = replace(model, encoder=replace(model.encoder, image_size=SIDE))
    return Config(
        model=model,
        data=DataConfig(**data),
        optim=OptimConfig(batch_size=B),
    )


CFG = make_config()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return procedural_batch(CFG, 3)


TENSORS = [field.name for field in fields(Batch) if field.name not in ("picture_size", "cameras")]


def is_same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)


def input_pixels(batch: Batch) -> Tensor:
    """Where the rays of view 0 cross the input picture: (B, R, 2) in pixels, x right, y down."""
    d = batch.rays_d[:, 0]
    scale = SIDE / 2 / math.tan(math.radians(CFG.model.fov_deg) / 2) / -d[..., 0]
    return torch.stack([d[..., 1] * scale, -d[..., 2] * scale], dim=-1) + SIDE / 2


def extents(images: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (B, 2) and longer sides (B,) of the objects' bounding rectangles, in pixels."""
    seen = (images - 0.5).abs().amax(1) > 0
    centres, sides = [], []
    for picture in seen:
        y, x = torch.nonzero(picture, as_tuple=True)
        centres.append([float(i.min() + i.max() + 1) / 2 for i in (x, y)])
        sides.append(max(float(i.max() - i.min() + 1) for i in (x, y)))
    return torch.tensor(centres), torch.tensor(sides)


# ------------------------------------------------------------------------------------- determinism


def test_a_batch_is_a_function_of_its_step(batch: Batch) -> None:
    state = torch.get_rng_state()
    assert is_same(batch, procedural_batch(make_config(), 3))
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"


def test_steps_and_seeds_differ(batch: Batch) -> None:
    for other in (procedural_batch(CFG, 4), procedural_batch(make_config(seed=2), 3)):
        assert not bool((batch.images == other.images).flatten(1).all(1).any())
        assert not torch.equal(batch.rays_d, other.rays_d)


def test_shapes_and_types(batch: Batch) -> None:
    assert batch.images.shape == (B, 3, SIDE, SIDE)
    for name in ("rays_o", "rays_d", "rgb"):
        assert getattr(batch, name).shape == (B, V, R, 3), name
    assert batch.mask.shape == batch.depth.shape == (B, V, R)
    assert all(getattr(batch, name).dtype == torch.float32 for name in TENSORS)
    assert all(getattr(batch, name).is_contiguous() for name in TENSORS)


def test_a_batch_moves_as_a_whole(batch: Batch) -> None:
    assert is_same(batch.to("cpu"), batch)
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert all(getattr(moved, name).device.type == "meta" for name in TENSORS)


# ----------------------------------------------------------------------------------------- cameras


def test_view_0_is_the_canonical_camera(batch: Batch) -> None:
    d = CFG.model.camera_distance
    assert bool((batch.rays_o[:, 0] == torch.tensor([d, 0.0, 0.0])).all())
    pixels = input_pixels(batch)
    assert float(pixels.min()) >= -1e-3
    assert float(pixels.max()) <= SIDE + 1e-3
    assert bool((batch.rays_d[:, 0, :, 0] < 0).all())


def test_other_views_are_orbits_at_the_same_distance(batch: Batch) -> None:
    positions = batch.rays_o[:, 1:]
    assert bool((positions == positions[:, :, :1]).all()), "a view has one camera"
    positions = positions[:, :, 0]
    distance = CFG.model.camera_distance
    torch.testing.assert_close(positions.norm(dim=-1), torch.full((B, V - 1), distance))
    elevation = (positions[..., 2] / distance).asin().rad2deg()
    assert float(elevation.min()) >= -30.01
    assert float(elevation.max()) <= 60.01
    quadrants = torch.stack([positions[..., 0] > 0, positions[..., 1] > 0], -1).reshape(-1, 2)
    assert len(torch.unique(quadrants, dim=0)) == 4  # the whole turn
    # Every ray stays within the cone around the corners of its picture.
    cosine = -(batch.rays_d * batch.rays_o).sum(-1) / distance
    corner = math.hypot(1, math.sqrt(2) * math.tan(math.radians(CFG.model.fov_deg) / 2))
    assert float(cosine.min()) >= 1 / corner - 1e-4


def test_rays_have_unit_length_and_most_are_aimed_at_the_object(batch: Batch) -> None:
    torch.testing.assert_close(batch.rays_d.norm(dim=-1), torch.ones(B, V, R))
    aimed = round(FOCUS_SHARE * R)
    hits, elsewhere = batch.mask[..., :aimed].mean(), batch.mask[..., aimed:].mean()
    assert 0.25 < float(elsewhere) < float(hits) < 0.9
    assert bool((batch.mask.sum(-1) > 0).all()), "every view sees its object"


def middles(points: Tensor, chosen: Tensor) -> Tensor:
    """Centres of the bounding rectangles of the chosen (..., R) of the points (..., R, 2)."""
    far, chosen = torch.tensor(1e9), chosen[..., None]
    low = torch.where(chosen, points, far).amin(-2)
    return 0.5 * (low + torch.where(chosen, points, -far).amax(-2))


def test_rays_are_aimed_at_where_the_object_is_seen(batch: Batch) -> None:
    position = batch.rays_o[:, :, 0]
    azimuth = torch.atan2(position[..., 1], position[..., 0])
    elevation = (position[..., 2] / CFG.model.camera_distance).asin()
    x, y, z = (batch.rays_d @ orbit_c2w(azimuth, elevation, 1.0)[..., :3, :3]).unbind(-1)
    tangents = torch.stack([x, y], dim=-1) / -z[..., None]
    aimed = torch.arange(R) < round(FOCUS_SHARE * R)
    aims, objects = middles(tangents, aimed.expand(B, V, R)), middles(tangents, batch.mask == 1)
    for axis in range(2):
        both = torch.stack([aims[..., axis].flatten(), objects[..., axis].flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.7
    assert float((aims - objects).abs().mean()) < 0.02  # the picture's half side is 0.36


# ----------------------------------------------------------------------------------------- answers


def test_misses_are_white_and_hits_have_a_depth(batch: Batch) -> None:
    miss = batch.mask == 0
    assert bool(((batch.mask == 0) | (batch.mask == 1)).all())
    assert bool((batch.rgb[miss] == 1).all())
    assert bool((batch.depth[miss] == 0).all())
    reach = REACH * CFG.model.render.radius
    depth = batch.depth[~miss]
    assert float(depth.min()) >= CFG.model.camera_distance - reach - 1e-4
    assert float(depth.max()) <= CFG.model.camera_distance + reach + 1e-4
    assert float(batch.rgb.min()) >= 0
    assert float(batch.rgb.max()) <= 1 + 1e-6
    assert float((batch.rgb[~miss] < 0.99).any(-1).float().mean()) > 0.9


def test_objects_keep_within_reach_of_the_planes(batch: Batch) -> None:
    points = batch.rays_o + batch.depth[..., None] * batch.rays_d
    distance = points.norm(dim=-1)[batch.mask == 1]
    # The limit holds for points on the surfaces; tips between them may lie farther.
    assert float(distance.max()) <= 1.05 * CFG.model.render.radius
    assert float((distance <= REACH * CFG.model.render.radius + 1e-3).float().mean()) > 0.99
    assert float(distance.max()) > 0.5 * CFG.model.render.radius


def test_the_input_picture_agrees_with_point_samples(batch: Batch) -> None:
    """Where the picture is even around a sample, both show one colour: grey where rays miss."""
    pixels = input_pixels(batch).long().clamp(0, SIDE - 1)
    highest = torch.nn.functional.max_pool2d(batch.images, 3, 1, 1)
    lowest = -torch.nn.functional.max_pool2d(-batch.images, 3, 1, 1)
    flat = (highest - lowest).amax(1) < 0.02
    checked, off = 0, 0
    for i in range(B):
        x, y = pixels[i].unbind(-1)
        even, hit = flat[i, y, x], batch.mask[i, 0] == 1
        shown = batch.images[i, :, y, x].T
        assert float((shown[even & ~hit] == 0.5).float().mean()) > 0.98  # grazing rays
        difference = (shown - batch.rgb[i, 0]).abs().amax(-1)
        off += int((difference[even & hit] > 0.03).sum())  # fine patterns may look even
        checked += int((even & hit).sum())
    assert checked > 100
    assert off <= 0.02 * checked


# ------------------------------------------------------------------------------------ input picture


def test_pictures_show_the_object_on_grey(batch: Batch) -> None:
    assert float(batch.images.min()) >= 0
    assert float(batch.images.max()) <= 1
    for y in (0, -1):
        for x in (0, -1):
            assert bool((batch.images[:, :, y, x] == 0.5).all())
    assert bool(((batch.images != 0.5).flatten(1).float().mean(1) > 0.03).all())


def test_pictures_are_anti_aliased(batch: Batch) -> None:
    """Two samples along a pixel's side, at edges: nearly the mean of a picture twice as large."""
    encoder = replace(CFG.model.encoder, image_size=2 * SIDE)
    sharp = make_config(supersample=1)
    sharp = replace(sharp, model=replace(CFG.model, encoder=encoder))
    expected = torch.nn.functional.avg_pool2d(procedural_batch(sharp, 3).images, 2)
    aliased = procedural_batch(make_config(supersample=1), 3).images
    error, jagged = ((x - expected).abs().amax(1) for x in (batch.images, aliased))
    assert float(error.mean()) < 0.35 * float(jagged.mean())
    assert float((error < 0.06).float().mean()) > 0.97
    changed = (batch.images != aliased).any(1)
    assert 0.03 < float(changed.float().mean()) < 0.6
    assert float((error[changed] < 0.01).float().mean()) > 0.9


def test_objects_are_framed_as_photographs_are(batch: Batch) -> None:
    centres, sides = extents(batch.images)
    wanted = CFG.model.foreground_ratio * SIDE
    assert float((centres - SIDE / 2).abs().max()) <= OFFSET_JITTER * SIDE + 1
    assert float(sides.max()) <= wanted * (1 + RATIO_JITTER) + 2
    # Deep objects are smaller, so that the planes hold them.
    assert float((sides >= wanted * (1 - RATIO_JITTER) - 1).float().mean()) > 0.4
    assert float(sides.min()) > 0.4 * wanted
    assert float(sides.std()) > 0.5, "the framing varies"


# ---------------------------------------------------------------------------------------- held out


def test_training_never_sees_held_out_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    original, asked = ProceduralObjects.batch, []

    def spy(self, indices):
        asked.append(list(indices))
        return original(self, indices)

    monkeypatch.setattr(ProceduralObjects, "batch", spy)
    small = make_config(views=1, rays_per_view=2, supersample=1)
    for step in (0, 1, 10**6):
        procedural_batch(small, step)
    mean_image(CFG, 4, n_objects=3)
    validation_set(CFG, 3, 1, 4)
    first, second, late, mean, held_out = asked
    assert first == list(range(B))
    assert second == list(range(B, 2 * B))  # every object is new
    assert max(late + mean) < HELD_OUT <= min(held_out)
    assert HELD_OUT >= 2**40


def test_validation_sets() -> None:
    n, views, size = 5, 5, 8
    found = validation_set(CFG, n, views, size)
    assert found.images.shape == (n, 3, SIDE, SIDE)
    assert found.c2w.shape == (n, views, 4, 4)
    assert found.rgb.shape == (n, views, 3, size, size)
    assert found.angles.shape == (n, views)
    again = validation_set(CFG, n, views, size)
    for name in ("images", "c2w", "rgb", "angles", "fov_deg"):
        assert torch.equal(getattr(found, name), getattr(again, name))
    assert found.cameras is None
    assert float(found.rgb.min()) >= 0
    assert float(found.rgb.max()) <= 1 + 1e-6
    assert float(found.rgb[..., 0, 0].mean()) > 0.95  # corners are white
    cosine = found.c2w[..., 0, 2]  # the angle with the input camera, which stands on +x
    torch.testing.assert_close(found.angles.deg2rad().cos(), cosine, atol=1e-5, rtol=0)
    assert 0.02 < float((found.angles <= 45).float().mean()) < 0.5
    other = validation_set(make_config(seed=2), n, views, size)
    assert not torch.equal(found.images, other.images)
    assert not torch.equal(found.c2w, other.c2w)


def test_validation_objects_stand_without_jitter() -> None:
    centres, sides = extents(validation_set(CFG, 12, 1, 4).images)
    wanted = CFG.model.foreground_ratio * SIDE
    assert float((centres - SIDE / 2).abs().max()) <= 1
    assert float(sides.max()) <= wanted + 3
    assert float(((sides - wanted).abs() <= 2).float().mean()) > 0.4


def test_the_mean_picture_is_a_blot_on_white() -> None:
    mean = mean_image(CFG, 12, n_objects=24)
    assert mean.shape == (3, 12, 12)
    assert float(mean.min()) >= 0
    assert float(mean.max()) <= 1 + 1e-6
    assert float(mean[:, 5:7, 5:7].mean()) < 0.7
    assert float(mean[:, ::11, ::11].min()) > 0.95
    assert torch.equal(mean, mean_image(CFG, 12, n_objects=24))


# ------------------------------------------------------------------------------------------- edges


def test_one_view_and_no_rays_are_allowed() -> None:
    found = procedural_batch(make_config(views=1, rays_per_view=0), 0)
    assert found.rays_o.shape == found.rays_d.shape == found.rgb.shape == (B, 1, 0, 3)
    assert found.mask.shape == found.depth.shape == (B, 1, 0)
    assert found.images.shape == (B, 3, SIDE, SIDE)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        procedural_batch(CFG, -1)
    for data in ({"views": 0}, {"rays_per_view": -1}):
        with pytest.raises(ValueError, match=r"data\.views >= 1 and data\.rays_per_view >= 0"):
            procedural_batch(make_config(**data), 0)
    for n_objects, n_views in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least one object and one view"):
            validation_set(CFG, n_objects, n_views, 4)
    with pytest.raises(ValueError, match="at least one object, got 0"):
        mean_image(CFG, 4, n_objects=0)


def test_a_camera_among_the_objects_is_refused() -> None:
    model = replace(CFG.model, render=RenderSettings(radius=2.5))
    with pytest.raises(ValueError, match=r"camera_distance must exceed 2\.3.*got 1\.9"):
        procedural_batch(replace(CFG, model=model), 0)
