"""Single pictures as batches: a function of the step, framed as Real3D frames them."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastrecon.config import Config, DataConfig, SelfTrainingConfig
from fastrecon.data import photo_batch as module
from fastrecon.data.photo_batch import TRIES, check_photo, photo_batch
from fastrecon.data.posed import CollectionError
from fastrecon.data.sources import training_batch
from fastrecon.prefetch import Prefetch
from tests.micro import micro_config

N, SIDE = 10, 48
BOXES = [(30, 20), (20, 30), (36, 36), (12, 34)]
"""Width and height of the objects in the pictures, in turn."""


def save(path: Path, rgba: np.ndarray) -> None:
    Image.fromarray((rgba * 255).round().astype(np.uint8)).save(path)


def picture(i: int) -> np.ndarray:
    """A box of the grey level i + 1 of 12, away from the middle, in a picture 60 wide, 50 high."""
    width, height = BOXES[i % len(BOXES)]
    rgba = np.zeros((50, 60, 4), np.float32)
    left, top = 2 + i % 5, 1 + i % 7
    rgba[top : top + height, left : left + width] = (*[(i + 1) / 12] * 3, 1.0)
    return rgba


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    for i in range(N):
        save(path / f"{i:03d}.png", picture(i))
    return path


def make_config(folder: Path, *, photos: int = 4, **overrides: Any) -> Config:
    model = micro_config()
    task = {k: overrides.pop(k) for k in list(overrides) if k == "crop_ratio"}
    return Config(
        model=replace(model, encoder=replace(model.encoder, image_size=SIDE)),
        data=DataConfig(**{"photos": str(folder), "seed": 1, "supersample": 1} | overrides),
        self_training=SelfTrainingConfig(photos=photos, semantic=0.0, **task),
    )


def which(batch: Tensor) -> list[int]:
    """The pictures of a batch, by their grey in the middle."""
    middle = batch[:, :3, SIDE // 2, SIDE // 2].mean(1)
    return [round(float(x) * 12) - 1 for x in middle]


# ---------------------------------------------------------------------------------- what comes when


def test_a_batch_is_a_function_of_its_step(folder: Path) -> None:
    first = photo_batch(make_config(folder), 5)
    assert first.shape == (4, 4, SIDE, SIDE)
    assert first.dtype == torch.float32
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    photo_batch(make_config(folder), 2)
    assert torch.equal(first, photo_batch(make_config(folder), 5))
    assert torch.equal(state, torch.get_rng_state())
    assert (np.random.get_state()[1] == numpy_state).all()  # type: ignore[index]
    assert not torch.equal(first, photo_batch(make_config(folder), 6))
    assert not torch.equal(first, photo_batch(make_config(folder, seed=2), 5))


def test_every_picture_comes_once_before_any_comes_again(folder: Path) -> None:
    """Steps of 4 pictures out of 10: epochs end in the middle of a step."""
    cfg = make_config(folder)
    order = [i for step in range(15) for i in which(photo_batch(cfg, step))]
    epochs = [order[k : k + N] for k in range(0, len(order), N)]
    assert len(epochs) == 6
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6, "every epoch has an order of its own"


def test_larger_shares_contain_smaller_ones(folder: Path) -> None:
    seen = []
    for share, count in ((0.05, 1), (0.3, 3), (0.5, 5), (1.0, N)):
        cfg = make_config(folder, photo_share=share)
        found = {i for step in range(5) for i in which(photo_batch(cfg, step))}
        assert len(found) == count
        assert all(found >= smaller for smaller in seen)
        seen.append(found)
    other = make_config(folder, photo_share=0.3, seed=3)
    assert {i for step in range(3) for i in which(photo_batch(other, step))} != seen[1]


# ---------------------------------------------------------------------------------------- framing


@pytest.mark.parametrize("limits", [(1.45, 1.7), (1.45, 1.95), (1.2, 1.2)])
def test_the_side_is_a_random_multiple_of_the_objects_longer_one(
    folder: Path, limits: tuple[float, float]
) -> None:
    cfg = make_config(folder, crop_ratio=limits)
    ratios = []
    for step in range(15):
        batch = photo_batch(cfg, step)
        for alpha, i in zip(batch[:, 3], which(batch), strict=True):
            rows, columns = (torch.nonzero((alpha > 0.5).any(d)).flatten() for d in (1, 0))
            height, width = (int(x[-1] - x[0]) + 1 for x in (rows, columns))
            ratios.append(SIDE / max(width, height))
            true = np.array(BOXES[i % len(BOXES)])
            assert (width, height) == pytest.approx(
                tuple(true / true.max() * max(width, height)), abs=1.5
            )
            for found in (rows, columns):  # centred, to a pixel
                assert abs(float(found[0] + found[-1] + 1) / 2 - SIDE / 2) <= 1
    # Sides are whole pixels, here and in the file: about one in thirty each way.
    assert min(ratios) > limits[0] * 0.95
    assert max(ratios) < limits[1] * 1.05
    middle, spread = (limits[0] + limits[1]) / 2, (limits[1] - limits[0]) / 12**0.5
    assert np.mean(ratios) == pytest.approx(middle, abs=0.04)
    assert np.std(ratios) == pytest.approx(spread, abs=0.04)


def test_a_picture_is_framed_anew_every_time(folder: Path) -> None:
    cfg = make_config(folder, photos=1, photo_share=0.05)
    found = [photo_batch(cfg, step) for step in range(4)]
    assert len({tuple(which(x)) for x in found}) == 1
    assert not torch.equal(found[0], found[1])


def test_colours_are_multiplied_by_alpha(tmp_path: Path) -> None:
    """Transparent white around red, soft in between: no white leaks in."""
    rgba = np.ones((40, 40, 4), np.float32)
    rgba[..., 3] = 0
    rgba[8:32, 8:32] = (1, 0, 0, 0.4)
    rgba[10:30, 10:30, 3] = 1.0
    save(tmp_path / "red.png", rgba)
    [found] = photo_batch(make_config(tmp_path, photos=1, crop_ratio=(1.6, 1.6)), 0)
    assert float(found[1:3].abs().max()) == 0
    torch.testing.assert_close(found[0], found[3], atol=1e-6, rtol=0)
    assert float(found[3].max()) == pytest.approx(1.0)
    assert bool(((found[3] > 0.3) & (found[3] < 0.5)).any()), "the soft edge is still there"
    solid = torch.nonzero((found[3] > 225 / 255).any(0)).flatten()
    # The soft edge (0.4, below 225 / 255) does not count: 20 px of a side of 32.
    assert len(solid) == pytest.approx(SIDE / 1.6, abs=2)


# --------------------------------------------------------------------------- pictures of no use


def opaque(rgba: np.ndarray) -> np.ndarray:
    rgba[..., 3] = 1.0
    return rgba


def empty(rgba: np.ndarray) -> np.ndarray:
    return rgba * 0


def faint(rgba: np.ndarray) -> np.ndarray:
    rgba[..., 3] *= 0.5
    return rgba


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(opaque, "no background"), (empty, "no object"), (faint, "no object")],
)
def test_an_unusable_picture_is_reported_and_replaced(
    folder: Path, tmp_path: Path, spoil: Any, reason: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    save(tmp_path / "003.png", spoil(picture(3)))
    (tmp_path / "007.png").write_bytes((folder / "007.png").read_bytes()[:60])
    cfg = make_config(tmp_path, photos=N)
    with pytest.warns(UserWarning, match="left out 003") as caught:
        found = which(photo_batch(cfg, 0))
    messages = [str(w.message) for w in caught]
    assert any("003" in m and reason in m for m in messages)
    assert any("left out 007" in m for m in messages)
    assert len(found) == N
    assert set(found) == set(range(N)) - {3, 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        healthy = which(photo_batch(make_config(folder, photos=N), 0))
        assert which(photo_batch(cfg, 0)) == found, "the same another time"
    assert [i for i in healthy if i in (3, 7)] != []
    kept = [(a, b) for a, b in zip(healthy, found, strict=True) if a not in (3, 7)]
    assert all(a == b for a, b in kept), "the others stay where they were"


def test_nothing_but_unusable_pictures_is_an_error(tmp_path: Path) -> None:
    for i in range(2 * TRIES):
        save(tmp_path / f"{i}.png", opaque(picture(i)))
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(
            CollectionError, match=f"{TRIES} unusable pictures in a row.*cut the object out"
        ) as error,
    ):
        photo_batch(make_config(tmp_path), 0)
    assert str(tmp_path) in str(error.value), "it says where"


def test_two_bad_pictures_alone_are_an_error_too(tmp_path: Path) -> None:
    for i in range(2):
        save(tmp_path / f"{i}.png", empty(picture(i)))
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(CollectionError, match="2 unusable pictures in a row"),
    ):
        photo_batch(make_config(tmp_path), 0)


def test_values_that_are_not_finite_are_refused() -> None:
    rgba = picture(0)
    rgba[3, 3, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        check_photo(rgba)
    check_photo(picture(0))


def test_a_path_without_pictures_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CollectionError, match=str(path)):
            photo_batch(make_config(path), 0)


# ----------------------------------------------------------------------------------- in a run


def test_batches_come_through_a_worker_process(folder: Path) -> None:
    cfg = make_config(folder, rays_per_view=4, views=1)
    cfg = replace(cfg, optim=replace(cfg.optim, batch_size=2))
    batches = Prefetch(partial(training_batch, cfg), last=3, workers=1)
    try:
        found = batches.take(1)
    finally:
        batches.close()
    here = training_batch(cfg, 1)
    assert found.photos is not None
    assert here.photos is not None
    assert torch.equal(found.photos, here.photos)
    assert torch.equal(found.photos, photo_batch(cfg, 1))
    assert torch.equal(found.known.rgb, here.known.rgb)


def test_without_self_training_no_picture_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "open_photos", None)
    cfg = make_config(folder, rays_per_view=4, views=1)
    cfg = replace(cfg, self_training=SelfTrainingConfig(photos=0))
    assert training_batch(cfg, 0).photos is None
