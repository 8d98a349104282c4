"""Pictures with depth from files: what is read, what is refused, which comes when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastrecon.config import OptimConfig, RunConfig
from fastrecon.config.g3dr import G3DRConfig, RGBDDataConfig, TriGenConfig
from fastrecon.data.rgbd import (
    RGBD,
    RGBDError,
    class_number,
    open_rgbd,
    read_depth,
    rgbd_batch,
    split,
    squared,
)
from fastrecon.data.scene_stream import scene_batch

N, SIDE = 12, 16
HEIGHT, WIDTH = 20, 26


def write_pair(folder: Path, stem: str, grey: int, ending: str = ".png") -> None:
    """A grey picture, its left third black; depth grows to the right, with a step of the grey."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = np.full((HEIGHT, WIDTH, 3), grey, np.uint8)
    picture[:, : WIDTH // 3] = 0
    Image.fromarray(picture).save(folder / f"{stem}{ending}")
    depth = np.linspace(0, 60_000, WIDTH).astype(np.uint16)[None].repeat(HEIGHT, 0)
    Image.fromarray(depth).save(folder / f"{stem}_depth.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    for i in range(N):
        write_pair(root / ("cats" if i % 2 else "dogs"), f"p{i:02d}", 20 * (i + 1))
    return root


def make_config(folder: Path | str, **data: Any) -> G3DRConfig:
    return G3DRConfig(
        model=replace(TriGenConfig.tiny(), size=SIDE),
        data=RGBDDataConfig(**({"path": str(folder), "seed": 3} | data)),
        optim=OptimConfig(steps=10, batch_size=4),
        run=RunConfig(validation_objects=1),
    )


def which(batch: Any) -> list[int]:
    return [round(float(x) * 255 / 20) - 1 for x in batch.images.amax((1, 2, 3))]


# ---------------------------------------------------------------------------------------- the files


def test_a_sample_is_what_the_files_say(folder: Path) -> None:
    samples = open_rgbd(str(folder))
    assert samples.classes == ("cats", "dogs")
    assert len(samples) == N
    assert samples.names[:2] == ["cats/p01", "cats/p03"]
    sample = samples.sample(0)
    assert (sample.name, sample.label) == ("cats/p01", 0)
    assert samples.sample(N - 1).label == samples.label("dogs") == 1
    assert sample.image.shape == (3, HEIGHT, WIDTH)
    assert sample.depth.shape == (1, HEIGHT, WIDTH)
    assert sample.image[:, 0, 0].tolist() == [0.0] * 3
    assert float(sample.image[0, 0, -1]) == pytest.approx(40 / 255)
    expected = np.linspace(0, 60_000, WIDTH).astype(np.uint16) / 65_536
    assert sample.depth[0, 5].numpy() == pytest.approx(expected, abs=2e-5)


def test_the_middle_square_is_resized_with_antialiasing() -> None:
    image = torch.zeros(3, 16, 48)
    image[:, :, 16:32] = torch.tensor([0.0, 1.0]).repeat(8)  # stripes, one pixel wide
    depth = torch.linspace(0.0, 1.0, 48).expand(1, 16, 48).clone()
    picture, small = squared(RGBD(image, depth, 0, "x"), 4)
    assert picture.shape == (3, 4, 4)
    assert small.shape == (1, 4, 4)
    assert bool(((picture - 0.5).abs() < 0.05).all()), "averaged, not picked"
    middle = torch.linspace(0.0, 1.0, 48)[16:32].view(4, 4).mean(1)
    torch.testing.assert_close(small[0, 1, 1:3], middle[1:3], atol=1e-3, rtol=0)


def test_one_folder_is_one_class(tmp_path: Path) -> None:
    for i in range(3):
        write_pair(tmp_path / "only", f"p{i}", 100, ".jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "only" / "no_depth_of_it.png")
    (tmp_path / "only" / "notes.txt").write_text("hello")
    samples = open_rgbd(str(tmp_path / "only"))
    assert len(samples) == 3
    assert len(samples.classes) == 1
    assert {label for _, label in samples.files} == {0}
    assert open_rgbd(str(tmp_path)).classes == ("only",)


def test_what_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(RGBDError, match="is no folder; give one with"):
        open_rgbd(str(tmp_path / "nowhere"))
    (tmp_path / "cats").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "cats" / "a.png")
    with pytest.raises(RGBDError, match=r"no picture with depth.*fastrecon data depth"):
        open_rgbd(str(tmp_path))


def test_unknown_classes_get_the_nearest_names() -> None:
    classes = ("golden retriever", "tabby cat", "tiger cat", "school bus")
    assert class_number(classes, "tiger cat") == 2
    with pytest.raises(RGBDError, match=r"no class 'tabby'; the nearest of 4: tabby cat"):
        class_number(classes, "tabby")
    with pytest.raises(RGBDError, match="no class 'qqq'; the nearest of 4: golden"):
        class_number(classes, "qqq")


def ruined(folder: Path, how: str) -> None:
    picture, depth = folder / "p.png", folder / "p_depth.png"
    if how == "sizes":
        Image.fromarray(np.eye(7, dtype=np.uint16) * 900).save(depth)
    elif how == "8 bits":
        Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255).save(depth)
    elif how == "colour":
        Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(depth)
    elif how == "constant":
        Image.fromarray(np.full((HEIGHT, WIDTH), 777, np.uint16)).save(depth)
    elif how == "no depth":
        depth.unlink()
    elif how == "torn depth":
        depth.write_bytes(depth.read_bytes()[:60])
    elif how == "torn picture":
        picture.write_bytes(picture.read_bytes()[:60])
    elif how == "no picture":
        picture.write_bytes(b"<html>not found</html>")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("sizes", r"p\.png is 26 x 20 but its depth 7 x 7"),
        ("8 bits", r"p_depth\.png must be 16-bit grey, got mode L"),
        ("colour", r"p_depth\.png must be 16-bit grey, got mode RGB"),
        ("constant", r"p_depth\.png is 777 everywhere"),
        ("no depth", r"p_depth\.png is missing or damaged"),
        ("torn depth", r"p_depth\.png is missing or damaged"),
        ("torn picture", r"p\.png is missing or damaged"),
        ("no picture", r"p\.png is missing or damaged"),
    ],
)
def test_every_bad_pair_is_refused_by_name(how: str, words: str, tmp_path: Path) -> None:
    write_pair(tmp_path, "p", 50)
    samples = open_rgbd(str(tmp_path))
    ruined(tmp_path, how)
    with pytest.raises(RGBDError, match=words):
        samples.sample(0)


def test_a_huge_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pair(tmp_path, "p", 50)
    samples = open_rgbd(str(tmp_path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(RGBDError, match="p"):
        samples.sample(0)


def test_32_bit_depth_is_clamped(tmp_path: Path) -> None:
    values = np.zeros((4, 4), np.int32)
    values[0, 0], values[1, 1] = 70_000, 32_768
    Image.fromarray(values).save(tmp_path / "d.tif")
    depth = read_depth(tmp_path / "d.tif")
    assert float(depth[0, 0, 0]) == 1.0
    assert float(depth[0, 1, 1]) == pytest.approx(0.5, abs=1e-4)


# ---------------------------------------------------------------------------------- what comes when


def test_a_batch_is_a_function_of_its_step(folder: Path) -> None:
    cfg = make_config(folder)
    first = rgbd_batch(cfg, 5)
    assert first.images.shape == (4, 3, SIDE, SIDE)
    assert first.depth.shape == (4, 1, SIDE, SIDE)
    assert first.labels.dtype == torch.int64
    state = torch.get_rng_state()
    rgbd_batch(cfg, 2)
    again = rgbd_batch(make_config(folder), 5)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.depth, again.depth)
    assert not torch.equal(first.images, rgbd_batch(cfg, 6).images)
    assert not torch.equal(first.images, rgbd_batch(make_config(folder, seed=4), 5).images)
    assert torch.equal(scene_batch(cfg, 5).images, first.images)


def test_labels_are_those_of_the_pictures(folder: Path) -> None:
    cfg = make_config(folder)
    for step in range(4):
        batch = rgbd_batch(cfg, step)
        assert batch.labels.tolist() == [(i + 1) % 2 for i in which(batch)]


def test_every_training_picture_comes_once_before_any_comes_again(folder: Path) -> None:
    cfg = make_config(folder)
    held, training = split(cfg, open_rgbd(str(folder)))
    assert len(held) == 1
    assert sorted(held + training) == list(range(N))
    order = [i for step in range(11) for i in which(rgbd_batch(cfg, step))]
    epochs = [order[k : k + N - 1] for k in range(0, len(order), N - 1)]
    assert len(epochs) == 4
    assert all(len(set(epoch)) == N - 1 for epoch in epochs)
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1, "never a held-out picture"
    assert len({tuple(epoch) for epoch in epochs}) == 4, "every epoch has an order of its own"


def test_at_most_a_tenth_is_held_out(folder: Path, tmp_path: Path) -> None:
    cfg = make_config(folder)
    many = replace(cfg, run=replace(cfg.run, validation_objects=64))
    assert len(split(many, open_rgbd(str(folder)))[0]) == 1
    write_pair(tmp_path, "alone", 50)
    with pytest.raises(RGBDError, match="holds 1 picture; training needs at least two"):
        rgbd_batch(make_config(tmp_path), 0)


def test_a_flip_mirrors_picture_and_depth_together(folder: Path) -> None:
    always, never = (make_config(folder, flip=p) for p in (1.0, 0.0))
    for step in range(3):
        mirrored, plain = rgbd_batch(always, step), rgbd_batch(never, step)
        assert torch.equal(mirrored.images, plain.images.flip(-1))
        assert torch.equal(mirrored.depth, plain.depth.flip(-1))
    flips = []
    for step in range(60):
        batch = rgbd_batch(make_config(folder), step)
        leftwards = batch.depth[:, 0, 0, 0] > batch.depth[:, 0, 0, -1]
        dark_right = batch.images[:, 0, 0, -1] < batch.images[:, 0, 0, 0]
        assert torch.equal(leftwards, dark_right)
        flips += leftwards.tolist()
    assert np.mean(flips) == pytest.approx(0.5, abs=4 * 0.5 / 240**0.5)


def test_an_unusable_picture_is_replaced_and_reported(folder: Path, tmp_path: Path) -> None:
    for i in range(4):
        write_pair(tmp_path, f"p{i}", 20 * (i + 1))
    cfg = make_config(tmp_path)
    training = split(cfg, open_rgbd(str(tmp_path)))[1]
    paths = [open_rgbd(str(tmp_path)).files[i][0] for i in training]
    paths[0].write_bytes(b"no")
    with pytest.warns(UserWarning, match=f"left out: .*{paths[0].name} is missing or damaged"):
        batch = rgbd_batch(cfg, 0)
    assert training[0] not in which(batch)
    assert len(batch.images) == 4
    for path in paths:
        path.write_bytes(b"no")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(RGBDError, match="no usable picture among 3 in a row"),
    ):
        rgbd_batch(cfg, 0)


def test_procedural_flips_mirror_both_too() -> None:
    always, never = (make_config("", flip=p) for p in (1.0, 0.0))
    mirrored, plain = scene_batch(always, 2), scene_batch(never, 2)
    assert torch.equal(mirrored.images, plain.images.flip(-1))
    assert torch.equal(mirrored.depth, plain.depth.flip(-1))
    assert not torch.equal(plain.images, plain.images.flip(-1))
    assert plain.labels.tolist() == [0, 0, 0, 0]
    other = scene_batch(never, 3)
    assert not torch.equal(other.images[0], plain.images[3]), "steps do not share scenes"
