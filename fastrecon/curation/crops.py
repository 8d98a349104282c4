"""Pictures in, crops with alpha out."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ..errors import ImageError
from .files import File, stream
from .masks import Mask

Picture = NDArray[np.uint8]
TEMPORARY = ".partial-"
"""Names of unfinished files begin with this."""


def read_picture(file: File, size: tuple[int, int]) -> Picture:
    """A picture as ``(H, W, 3)``, turned upright.

    Raises:
        ImageError: missing, damaged, or not of ``size`` (H, W), that of its annotations.
    """
    rgb = np.asarray(upright(file))
    if rgb.shape[:2] != size:
        height, width = rgb.shape[:2]
        raise ImageError(
            f"{file} is {width} x {height} px, its annotations are for {size[1]} x {size[0]}"
        )
    return rgb


def upright(file: File) -> Image.Image:
    """A picture's pixels as RGB, turned as its camera was held.

    Raises:
        ImageError: missing or damaged.
    """
    if isinstance(file, Path) and not file.is_file():
        raise ImageError(f"{file} does not exist")
    try:
        with Image.open(stream(file)) as image:
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"{file} is damaged or no picture ({error})") from error


def upright_size(file: File) -> tuple[int, int]:
    """(H, W) of a picture turned upright, without decoding it. Raises ``ImageError``."""
    try:
        with Image.open(stream(file)) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return image.size if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"{file} is damaged or no picture ({error})") from error


def cut(picture: Picture, mask: Mask) -> Picture:
    """The instance alone, ``(h, w, 4)``: its box, opaque where it is, black and clear elsewhere."""
    inside = mask.inside[..., None]
    return np.concatenate([picture[mask.window] * inside, inside * np.uint8(255)], -1)


def png(picture: Picture) -> bytes:
    """A picture as a PNG file; compressed little, as that takes most of the time."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, and has reached the disk.

    One process writes a path at a time, so that what a killed one left is written over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
