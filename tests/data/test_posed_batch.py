"""Posed sets as batches: every ray has the colour that the scene shows along it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastrecon.cameras import orbit_c2w
from fastrecon.config import Config, DataConfig, OptimConfig, RunConfig
from fastrecon.data import posed_batch as module
from fastrecon.data.batches import Batch, ValidationSet
from fastrecon.data.layouts import transforms_json, view_files, view_names
from fastrecon.data.posed import Collection, CollectionError
from fastrecon.data.posed_batch import posed_batch, posed_mean_image, posed_validation
from fastrecon.data.procedural import ProceduralObjects
from fastrecon.data.sources import mean_image, training_batch, validation_set
from fastrecon.prefetch import Prefetch
from tests.micro import micro_config
from tests.objectives.equations import halved

N, VIEWS, SIDE = 20, 5, 16
DISTANCE = 2.4
SCALE = 8.0 / 65535


def cameras(i: int) -> tuple[Tensor, float]:
    """The cameras (V, 4, 4) and field of view that object ``i`` was taken with."""
    generator = torch.Generator().manual_seed(i)
    azimuth, elevation, far = torch.rand(3, VIEWS, generator=generator, dtype=torch.float64)
    c2w = orbit_c2w(6.3 * azimuth, 1.6 * elevation - 0.5, 3.0 + far)
    return c2w, 36.0 + i % 3


def scene(i: int) -> Any:
    return ProceduralObjects(seed=4, max_parts=2).batch([i])


def write(folder: Path, i: int, count: int = VIEWS) -> None:
    c2w, fov = cameras(i)
    c2w = c2w[:count]
    pictures = scene(i).render(c2w[None].float(), SIDE, fov, supersample=1)
    for kind in ("depth", "normal"):
        (folder / kind).mkdir(parents=True)
    for name, data in view_files(pictures, c2w, SCALE, view_names(count), "nerf"):
        (folder / name).write_bytes(data)
    (folder / "transforms.json").write_bytes(transforms_json(c2w, fov, SIDE, SCALE, {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("posed")
    for i in range(N):
        write(path / f"{i:03d}", i)
    return path


def make_config(folder: Path, *, validation_objects: int = 64, **data: Any) -> Config:
    model = micro_config()
    fields: dict[str, Any] = {"multiview": str(folder), "seed": 1, "views": 3, "rays_per_view": 40}
    return Config(
        model=replace(
            model,
            camera_distance=DISTANCE,
            fov_deg=40.0,
            encoder=replace(model.encoder, image_size=SIDE),
        ),
        data=DataConfig(**(fields | data)),
        optim=OptimConfig(batch_size=3),
        run=RunConfig(validation_objects=validation_objects),
    )


@dataclass
class Asked:
    """Objects and views that a collection was asked for, in order."""

    calls: list[tuple[int, list[int]]] = field(default_factory=list)

    @property
    def objects(self) -> list[int]:
        return [index for index, _ in self.calls]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found, original = Asked(), Collection.views

    def views(self, index, which):
        found.calls.append((int(self.names[index]), list(which)))
        return original(self, index, which)

    monkeypatch.setattr(Collection, "views", views)
    return found


def in_the_files_world(points: Tensor, directions: Tensor, c2w: Tensor) -> tuple[Tensor, Tensor]:
    """From the batch's world, where the camera ``c2w`` is the canonical one at ``DISTANCE``.

    That world's axes are the input camera's: x backwards, y right, z up.
    """
    right, up, back, position = c2w[:3, 0], c2w[:3, 1], c2w[:3, 2], c2w[:3, 3]
    axes = torch.stack([back, right, up], dim=1)
    scale = position.norm() / DISTANCE
    origin = position - position.norm() * back  # the point on the camera's axis, as far away
    return points @ axes.T * scale + origin, directions @ axes.T


def colours(i: int, rays_o: Tensor, rays_d: Tensor, c2w: Tensor) -> tuple[Tensor, Tensor]:
    """Colour on white and mask that the scene shows along rays of the batch's world."""
    shape = rays_o.shape[:-1]
    o, d = in_the_files_world(rays_o.double().reshape(-1, 3), rays_d.double().reshape(-1, 3), c2w)
    found = scene(i).trace(o.float()[None], d.float()[None])
    rgb = found.rgb[0] + (1.0 - found.mask[0][:, None])
    return rgb.reshape(*shape, 3), found.mask[0].reshape(shape)


def assert_true_colours(batch: Batch, asked: Asked) -> None:
    off = checked = 0
    for slot, (i, which) in enumerate(asked.calls):
        rgb, mask = colours(i, batch.rays_o[slot], batch.rays_d[slot], cameras(i)[0][which[0]])
        wrong = (batch.rgb[slot] - rgb).abs().amax(-1) > 1.5 / 255  # stored in 8 bits
        assert ((batch.mask[slot] - mask).abs() > 1e-6).float().mean() < 0.01
        off, checked = off + int(wrong.sum()), checked + wrong.numel()
        assert mask.mean() > 0.1, "rays hit the object"
    assert off < 0.01 * checked, "a ray may graze an edge, not more"


# ------------------------------------------------------------------------------------- what is seen


def test_random_rays_have_the_scenes_colours(folder: Path, asked: Asked) -> None:
    for step in (0, 7):
        asked.calls.clear()
        batch = posed_batch(make_config(folder), step)
        assert batch.rays_o.shape == batch.rays_d.shape == batch.rgb.shape == (3, 3, 40, 3)
        assert batch.mask.shape == batch.depth.shape == (3, 3, 40)
        assert batch.picture_size == 0
        assert not batch.depth.any()
        torch.testing.assert_close(batch.rays_d.norm(dim=-1), torch.ones(3, 3, 40))
        assert_true_colours(batch, asked)


def test_whole_pictures_have_the_scenes_colours(folder: Path, asked: Asked) -> None:
    batch = posed_batch(make_config(folder, picture_size=SIDE), 3)
    assert batch.rgb.shape == (3, 3, SIDE * SIDE, 3)
    assert batch.picture_size == SIDE
    assert_true_colours(batch, asked)
    [first, *_] = asked.calls
    stored = scene(first[0]).render(
        cameras(first[0])[0][first[1]][None].float(), SIDE, cameras(first[0])[1], 1
    )
    pictures = batch.rgb[0].reshape(3, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    rgb, alpha = stored.rgba[0, :, :3], stored.rgba[0, :, 3:]
    torch.testing.assert_close(pictures, rgb * alpha + 1 - alpha, atol=0.003, rtol=0)


def test_smaller_pictures_are_reduced_with_their_rays(folder: Path) -> None:
    whole = posed_batch(make_config(folder, picture_size=SIDE), 3)
    small = posed_batch(make_config(folder, picture_size=SIDE // 2), 3)
    assert small.rgb.shape == (3, 3, SIDE * SIDE // 4, 3)
    for b in range(3):
        for v in range(3):
            picture = whole.rgb[b, v].reshape(SIDE, SIDE, 3).permute(2, 0, 1)
            found = small.rgb[b, v].reshape(SIDE // 2, SIDE // 2, 3).permute(2, 0, 1)
            torch.testing.assert_close(found, halved(picture).float(), atol=2e-6, rtol=0)
            # A pixel's ray lies between those of the four that it stands for.
            d = whole.rays_d[b, v].reshape(SIDE // 2, 2, SIDE // 2, 2, 3).sum((1, 3))
            d = torch.nn.functional.normalize(d, dim=-1).reshape(-1, 3)
            torch.testing.assert_close(small.rays_d[b, v], d, atol=2e-4, rtol=0)


def test_view_0_is_the_input_from_the_canonical_camera(folder: Path) -> None:
    batch = posed_batch(make_config(folder, picture_size=SIDE), 5)
    position = torch.tensor([DISTANCE, 0.0, 0.0]).expand(3, SIDE * SIDE, 3)
    torch.testing.assert_close(batch.rays_o[:, 0], position)
    white = batch.rgb[:, 0].reshape(3, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    alpha = batch.mask[:, 0].reshape(3, 1, SIDE, SIDE)
    torch.testing.assert_close(batch.images, white - 0.5 * (1 - alpha))  # on grey
    d = batch.rays_d[:, 0].reshape(3, SIDE, SIDE, 3)
    assert bool((d[:, :, -1, 1] > 0).all()), "y is right"
    assert bool((d[:, 0, :, 2] > 0).all()), "z is up"


def test_the_input_camera_stands_where_it_is_told(folder: Path) -> None:
    batch = posed_batch(make_config(folder, camera_distance=3.0), 5)
    distances = batch.rays_o[:, :, 0].norm(dim=-1)
    torch.testing.assert_close(distances[:, 0], torch.full((3,), 3.0))
    assert bool((distances[:, 1:] - 3.0).abs().gt(0.01).all()), "the others keep their proportion"


def test_most_random_rays_aim_at_the_object(folder: Path) -> None:
    batch = posed_batch(make_config(folder, rays_per_view=200), 2)
    whole = posed_batch(make_config(folder, picture_size=SIDE), 2)
    assert float(batch.mask.mean()) > 1.3 * float(whole.mask.mean())
    corners = whole.rays_d[:, :, 0]  # some rays go anywhere
    away = (batch.rays_d * corners[:, :, None]).sum(-1).amax(-1)
    assert float(away.max()) > 0.97


# -------------------------------------------------------------------------------- what comes when


def test_a_batch_is_a_function_of_its_step(folder: Path) -> None:
    state = torch.get_rng_state()
    first = posed_batch(make_config(folder), 5)
    posed_batch(make_config(folder), 1)
    again, other = (posed_batch(make_config(folder), step) for step in (5, 6))
    for name in ("images", "rays_o", "rays_d", "rgb", "mask", "depth"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.images, posed_batch(make_config(folder, seed=2), 5).images)
    assert torch.equal(torch.get_rng_state(), state)


def test_objects_come_in_shuffled_epochs_and_views_at_random(folder: Path, asked: Asked) -> None:
    cfg = make_config(folder)
    for step in range(12):
        posed_batch(cfg, step)
    epochs = [asked.objects[k : k + 18] for k in range(0, 36, 18)]
    assert all(len(set(epoch)) == 18 for epoch in epochs), "two of twenty are held out"
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) == set(epochs[1])
    views = [tuple(which) for _, which in asked.calls]
    assert all(len(set(which)) == 3 for which in views)
    assert {which[0] for which in views} == set(range(VIEWS)), "any view may be the input"


def test_held_out_objects_are_never_trained_on(folder: Path, asked: Asked) -> None:
    cfg = make_config(folder)
    for step in range(18):
        posed_batch(cfg, step)
    posed_mean_image(cfg, 4)
    trained = set(asked.objects)
    asked.calls.clear()
    found = posed_validation(cfg, 5, 4, 8)
    held_out = set(asked.objects)
    assert len(held_out) == len(found.images) == 2, "at most a tenth"
    assert not trained & held_out
    assert len(trained) == N - 2


def test_how_many_are_validated_on_does_not_change_what_is_learnt(folder: Path) -> None:
    """It may differ when a run is resumed."""
    one, other = (posed_batch(make_config(folder, validation_objects=n), 4).images for n in (1, 64))
    assert torch.equal(one, other)


def assert_same_sets(one: ValidationSet, other: ValidationSet) -> None:
    for name, a, b in zip(one._fields, one, other, strict=True):
        assert (a is b) if a is None or b is None else torch.equal(a, b), name


def test_validation_sets(folder: Path, asked: Asked) -> None:
    cfg = make_config(folder)
    found = posed_validation(cfg, 1, 4, SIDE)
    assert found.images.shape == (1, 3, SIDE, SIDE)
    assert found.c2w.shape == (1, 4, 4, 4)
    assert found.rgb.shape == (1, 4, 3, SIDE, SIDE)
    assert found.angles.shape == found.fov_deg.shape == (1, 4)
    [(i, which)] = asked.calls
    assert len(set(which)) == 5
    c2w, fov = cameras(i)
    assert found.fov_deg.tolist() == [pytest.approx([fov] * 4)]
    for view, angle in zip(which[1:], found.angles[0].tolist(), strict=True):
        cosine = float(c2w[which[0], :3, 2] @ c2w[view, :3, 2])
        assert angle == pytest.approx(math.degrees(math.acos(cosine)), abs=0.05)
    stored = scene(i).render(c2w[which][None].float(), SIDE, fov, 1).rgba[0]
    on_white = stored[:, :3] * stored[:, 3:] + 1 - stored[:, 3:]
    torch.testing.assert_close(found.rgb[0], on_white[1:], atol=0.003, rtol=0)
    on_grey = on_white[0] - 0.5 * (1 - stored[0, 3:])
    torch.testing.assert_close(found.images[0], on_grey, atol=0.003, rtol=0)
    again = posed_validation(cfg, 1, 4, SIDE)
    assert_same_sets(found, again)


def test_the_mean_picture_is_that_of_training_objects(folder: Path, asked: Asked) -> None:
    found = posed_mean_image(make_config(folder), SIDE, n_objects=6)
    total = torch.zeros(3, SIDE, SIDE)
    assert len(asked.calls) == 6
    for i, [view] in asked.calls:
        c2w, fov = cameras(i)
        stored = scene(i).render(c2w[view][None, None].float(), SIDE, fov, 1).rgba[0, 0]
        total += stored[:3] * stored[3:] + 1 - stored[3:]
    torch.testing.assert_close(found, total / 6, atol=0.003, rtol=0)


# ------------------------------------------------------------------------------------------- edges


def test_objects_with_few_views(tmp_path: Path, asked: Asked) -> None:
    """Views are repeated where there are not enough, the input not unless it is the only one."""
    for i, count in enumerate((1, 2, 2)):
        write(tmp_path / f"{i:03d}", i, count)
    cfg = make_config(tmp_path, views=4)
    for step in range(6):
        batch = posed_batch(cfg, step)
        assert batch.rgb.shape == (3, 4, 40, 3)
    posed_validation(cfg, 1, 4, 8)
    for i, which in asked.calls:
        if i == 0:
            assert set(which) == {0}
        else:
            assert which[0] not in which[1:]


def test_one_view_is_the_input_alone(folder: Path, asked: Asked) -> None:
    batch = posed_batch(make_config(folder, views=1), 0)
    assert batch.rgb.shape == (3, 1, 40, 3)
    assert_true_colours(batch, asked)


def test_a_single_object_cannot_be_split(tmp_path: Path) -> None:
    write(tmp_path / "000", 0)
    with pytest.raises(CollectionError, match="at least two"):
        posed_batch(make_config(tmp_path), 0)


def test_a_damaged_file_is_named(folder: Path, tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / f"{i:03d}", i)
        for name in view_names(VIEWS):
            (tmp_path / f"{i:03d}" / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(CollectionError, match=r"00\d.*\.png"):
        posed_batch(make_config(tmp_path), 0)
    with pytest.raises(CollectionError, match="nowhere"):
        posed_batch(make_config(tmp_path / "nowhere"), 0)


def test_the_sources_of_a_run(folder: Path) -> None:
    cfg = make_config(folder)
    assert torch.equal(training_batch(cfg, 2).known.rgb, posed_batch(cfg, 2).rgb)
    expected = posed_validation(cfg, 2, 2, 8)
    assert_same_sets(validation_set(cfg, 2, 2, 8), expected)
    assert torch.equal(mean_image(cfg, 8), posed_mean_image(cfg, 8))


def test_batches_come_through_a_worker_process(folder: Path) -> None:
    cfg = make_config(folder, picture_size=8)
    batches = Prefetch(partial(training_batch, cfg), last=2, workers=1)
    try:
        found = batches.take(1).known
    finally:
        batches.close()
    here = posed_batch(cfg, 1)
    assert torch.equal(found.rgb, here.rgb)
    assert torch.equal(found.rays_d, here.rays_d)
    assert found.picture_size == 8


def test_photographed_sets_are_read_with_their_true_cameras(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the evaluation protocol's, which are an approximation."""
    asked, original = [], module.open_collection

    def opening(path, **options):
        asked.append(options)
        return original(path, **options)

    module._opened.cache_clear()
    monkeypatch.setattr(module, "open_collection", opening)
    posed_batch(make_config(folder), 0)
    module._opened.cache_clear()
    assert asked == [{"intrinsics": "measured"}]
