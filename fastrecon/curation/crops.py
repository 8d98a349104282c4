"""Pictures in, crops with alpha out."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import ImageError
from .masks import Mask

Picture = NDArray[np.uint8]
TEMPORARY = ".partial-"
"""Names of unfinished files begin with this."""


def read_picture(path: Path, size: tuple[int, int]) -> Picture:
    """A picture as ``(H, W, 3)``, turned upright.

    Raises:
        ImageError: missing, damaged, or not of ``size`` (H, W), that of its annotations.
    """
    if not path.is_file():
        raise ImageError(f"{path} does not exist")
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is damaged or no picture ({error})") from error
    if rgb.shape[:2] != size:
        height, width = rgb.shape[:2]
        raise ImageError(
            f"{path} is {width} x {height} px, its annotations are for {size[1]} x {size[0]}"
        )
    return rgb


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
