"""Pictures of every kind to a model's input, and clear words about those that cannot be used."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastrecon.background import cut_plain
from fastrecon.config import EncoderConfig
from fastrecon.errors import ImageError
from fastrecon.images import isolate, load_image, prepare_input
from tests.micro import micro_config

SHARED = Path(__file__).parents[2] / "shared" / "data" / "images"


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


def disc(side: int = 64, radius: float = 20.0) -> np.ndarray:
    """A boolean disc in the middle of a square."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return x**2 + y**2 < radius**2


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK"])
def test_modes_keep_a_grey_ramp(tmp_path: Path, mode: str) -> None:
    ramp = np.tile(np.repeat(np.array([0, 255], np.uint8), 16), (32, 1))
    name = "x.tif" if mode == "CMYK" else "x.png"
    rgba = load_image(save(tmp_path / name, ramp, mode))
    assert rgba.shape == (32, 32, 4)
    assert rgba.dtype == np.float32
    np.testing.assert_allclose(rgba[0, [2, -2], :3], [[0] * 3, [1] * 3], atol=0.02)
    np.testing.assert_array_equal(rgba[..., 3], 1)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.full((4, 4), 32768, np.uint16)
    np.testing.assert_allclose(load_image(save(tmp_path / "x.png", values))[..., 0], 0.5, atol=0.01)


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    path = tmp_path / "x.ppm"
    path.write_bytes(b"P6 1 1 65535\n" + np.array([65535, 32768, 0], ">u2").tobytes())
    np.testing.assert_allclose(load_image(path)[0, 0], [1, 0.5, 0, 1], atol=0.01)


def test_palette_with_transparency(tmp_path: Path) -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[2:6, 2:6] = [255, 0, 0, 255]
    path = tmp_path / "x.png"
    Image.fromarray(rgba).quantize(8).save(path)
    loaded = load_image(path)
    assert loaded[0, 0, 3] == 0
    np.testing.assert_allclose(loaded[4, 4], [1, 0, 0, 1], atol=0.02)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    picture = np.zeros((10, 20, 3), np.uint8)
    picture[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to the right
    Image.fromarray(picture).save(tmp_path / "x.jpg", exif=exif, quality=95)
    rgba = load_image(tmp_path / "x.jpg")
    assert rgba.shape == (20, 10, 4)
    assert rgba[2, 5, 0] > 0.9
    assert rgba[-3, 5, 0] < 0.1


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(load_image(tmp_path / "x.gif")[0, 0], [1, 0, 0, 1], atol=0.02)


def test_long_pictures_are_reduced(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", np.full((10, 20_000), 128, np.uint8))
    rgba = load_image(path)
    assert rgba.shape == (1, 2048, 4)
    np.testing.assert_allclose(rgba[..., :3], 0.5, atol=0.01)


def test_reducing_does_not_bleed_transparent_colours(tmp_path: Path) -> None:
    rgba = np.zeros((4, 8192, 4), np.uint8)
    rgba[..., 1] = 255  # green where transparent
    rgba[:, :4098] = [255, 0, 0, 255]
    loaded = load_image(save(tmp_path / "x.png", rgba))
    edge = loaded[0, (loaded[0, :, 3] > 0) & (loaded[0, :, 3] < 1)]
    assert len(edge) == 1
    np.testing.assert_allclose(edge[0, :3], [1, 0, 0], atol=0.02)


def test_huge_pictures_are_refused_without_being_decoded(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (20_000, 20_000)).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match="million pixels; scale it down"):
        load_image(tmp_path / "x.png")


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    whole = save(
        tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    )
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    for name, message in {
        "missing.png": "does not exist; check the path",
        "empty.png": r"is empty \(0 bytes\)",
        "text.png": "not a picture in a known format",
        "cut.png": "damaged or cut short",
        ".": "is a folder; name the pictures in it",
    }.items():
        with pytest.raises(ImageError, match=message):
            load_image(tmp_path / name)


def test_fully_transparent() -> None:
    with pytest.raises(ImageError, match="fully transparent"):
        isolate(np.zeros((8, 8, 4), np.float32))


def test_one_pixel() -> None:
    opaque = np.ones((1, 1, 4), np.float32)
    with pytest.raises(ImageError, match=r"too small to tell.*fastrecon\[background\]"):
        isolate(opaque)
    half = opaque * np.array([1, 0, 0, 0.5], np.float32)
    image = prepare_input(half, micro_config())
    # Half red on grey in the middle, grey around it.
    torch.testing.assert_close(image[:, 8, 8], torch.tensor([0.75, 0.25, 0.25]))


def test_plain_background_becomes_transparent_and_holes_stay() -> None:
    picture = np.full((64, 64, 4), 0.9, np.float32)
    picture[..., 3] = 1
    picture[disc(radius=20), :3] = [0.8, 0.1, 0.1]
    picture[disc(radius=5), :3] = 0.9  # the background's colour inside the object
    found = isolate(picture)
    assert found[0, 0, 3] == 0
    assert found[32, 32, 3] == 1
    assert abs((found[..., 3] > 0.5).sum() - disc(radius=20).sum()) < 10
    np.testing.assert_allclose(found[32, 20, :3], [0.8, 0.1, 0.1], atol=0.02)


def test_busy_background_needs_the_extra() -> None:
    noise = np.random.default_rng(0).random((64, 64, 4)).astype(np.float32)
    noise[..., 3] = 1
    assert cut_plain(noise[..., :3]) is None
    with pytest.raises(ImageError, match="no plain background"):
        isolate(noise, "noise.png")


def test_an_empty_wall_has_no_object() -> None:
    wall = np.full((64, 64, 4), 0.5, np.float32)
    wall[..., 3] = 1
    with pytest.raises(ImageError, match="no object found in wall"):
        isolate(wall, "wall.png")


@pytest.mark.parametrize("ratio", [0.5, 0.85])
def test_the_object_is_centred_and_fills_the_ratio(ratio: float) -> None:
    config = micro_config(encoder=EncoderConfig(image_size=128), foreground_ratio=ratio)
    rgba = np.zeros((80, 200, 4), np.float32)
    rgba[20:60, 150:190] = [0, 1, 0, 1]  # 40 px, near the right edge: the crop leaves the picture
    image = prepare_input(rgba, config)
    assert image.shape == (3, 128, 128)
    green = image[1] > 0.75
    rows, columns = (torch.nonzero(green.any(d)).flatten() for d in (1, 0))
    for span in (rows, columns):
        assert abs(len(span) - ratio * 128) <= 2
        assert abs((span[0] + span[-1]).item() / 2 - 63.5) <= 2
    torch.testing.assert_close(image[:, 0, 0], torch.full((3,), 0.5))


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/images is absent")
def test_example_pictures() -> None:
    found = {path.stem: isolate(load_image(path)) for path in sorted(SHARED.glob("*.png"))}
    assert len(found) == 7
    for name, rgba in found.items():
        share = (rgba[..., 3] > 0.5).mean()
        assert 0.05 < share < 0.6, (name, share)
