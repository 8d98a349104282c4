"""Pictures at two sizes, from folders and procedural scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from fastrecon.config import OptimConfig, RunConfig
from fastrecon.config.super_resolution import (
    SuperResolutionConfig,
    SuperResolutionDataConfig,
    check_super_resolution_config,
)
from fastrecon.data.super_resolution_batch import (
    halved,
    held_out_pairs,
    picture_files,
    picture_pairs,
    split,
    squared_picture,
)

SCENES = SuperResolutionConfig(
    data=SuperResolutionDataConfig(size=8, patch=0, max_parts=1, flip=0.0),
    optim=OptimConfig(batch_size=2),
    run=RunConfig(validation_objects=2),
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat/a.png", "cat/b.jpg", "dog/a.png", "dog/c.webp", "e.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(256, size=(20, 30, 3), dtype=np.uint8)).save(path)
    depth = rng.integers(65536, size=(20, 30)).astype(np.uint16)
    Image.fromarray(depth).save(tmp_path / "cat/a_depth.png")
    return tmp_path


def with_photos(root: Path, **changes) -> SuperResolutionConfig:
    data = replace(SCENES.data, path=str(root), size=16, patch=4, **changes)
    return replace(SCENES, data=data)


def test_halving_by_hand() -> None:
    # the triangle of an antialiased bilinear halving: 1, 3, 3, 1 over 8; renormalised at the border
    row = torch.tensor([0.0, 0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 0.0])
    picture = row.expand(1, 3, 8, 8)
    expected = torch.tensor([0.0, 0.3, 0.1, 0.0])
    assert_close(halved(picture)[0, 0, 1], expected, atol=1e-6, rtol=0)


def test_scenes_are_a_function_of_the_step() -> None:
    first, again, next_ = (
        picture_pairs(SCENES, 0),
        picture_pairs(SCENES, 0),
        picture_pairs(SCENES, 1),
    )
    assert first.high.shape == (2, 3, 8, 8)
    assert_close(first.low, halved(first.high))
    assert_close(first.high, again.high)
    assert not torch.equal(first.high, next_.high)
    held = held_out_pairs(SCENES)
    assert held.high.shape == (2, 3, 8, 8)
    assert not torch.equal(held.high, first.high)


def test_a_few_scenes_come_again_in_shuffled_epochs() -> None:
    cfg = replace(SCENES, data=replace(SCENES.data, scenes=4))
    epochs = [torch.cat([picture_pairs(cfg, 2 * e + k).high for k in range(2)]) for e in range(2)]
    sums = [sorted(epoch.sum((1, 2, 3)).tolist()) for epoch in epochs]
    assert sums[0] == pytest.approx(sums[1])


def test_crops_lie_over_each_other(photos: Path) -> None:
    cfg = with_photos(photos)
    pairs = picture_pairs(replace(cfg, optim=OptimConfig(batch_size=8)), 3)
    assert pairs.low.shape == (8, 3, 4, 4)
    assert pairs.high.shape == (8, 3, 8, 8)
    # inside a crop, halving it is what the small crop holds
    assert_close(halved(pairs.high)[..., 1:-1, 1:-1], pairs.low[..., 1:-1, 1:-1])
    turned = picture_pairs(with_photos(photos, flip=1.0), 3)
    straight = picture_pairs(with_photos(photos, flip=0.0), 3)
    assert not torch.equal(turned.low, straight.low)


def test_folders_are_searched_and_depth_is_left_out(photos: Path) -> None:
    names = [str(p.relative_to(photos)) for p in picture_files(str(photos))]
    assert names == ["cat/a.png", "cat/b.jpg", "dog/a.png", "dog/c.webp", "e.png"]
    held, training = split(with_photos(photos))
    assert len(held) == 1
    assert len(training) == 4
    assert not set(held) & set(training)
    assert held_out_pairs(with_photos(photos)).high.shape == (1, 3, 16, 16)


def test_the_middle_square_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 8, 4), np.uint8)
    rgba[:, 2:6, :] = (255, 0, 0, 255)
    rgba[:, 4:6, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "x.png")
    square = squared_picture(tmp_path / "x.png", 4)
    assert_close(square[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert_close(square[:, 0, 3], torch.ones(3))


def test_damaged_pictures_are_replaced(photos: Path) -> None:
    for path in split(with_photos(photos))[1][:2]:
        path.write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="left out"):
        pairs = [picture_pairs(with_photos(photos), step) for step in range(2)]
    assert all(torch.isfinite(p.high).all() for p in pairs)
    for path in picture_files(str(photos)):
        path.write_bytes(b"no picture")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="no usable picture"),
    ):
        picture_pairs(with_photos(photos), 0)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        picture_files(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="holds 0 pictures"):
        picture_files(str(tmp_path))
    wrong = replace(SCENES.data, size=7, patch=9, flip=2.0, scenes=-1, max_parts=0)
    with pytest.raises(ValueError, match="cannot be trained") as caught:
        check_super_resolution_config(replace(SCENES, data=wrong))
    for words in ("data.size", "data.patch", "data.flip", "data.scenes", "data.max_parts"):
        assert words in str(caught.value)
