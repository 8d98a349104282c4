"""Pictures with alpha from the contents of files, and back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .camera_files import AGAIN, CollectionError

Pixels = NDArray[np.uint8]
"""``(H, W, 4)``, straight alpha."""

PNG = b"\x89PNG\r\n\x1a\n"
"""How PNG files begin."""


def read_bytes(path: Path) -> bytes:
    """A file's contents.

    Raises:
        CollectionError: missing or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CollectionError(
            f"{path} is missing or damaged ({error.strerror or error}); {AGAIN}"
        ) from error


def open_picture(data: bytes, label: str, mode: str = "") -> Image.Image:
    """A decoded picture in a mode of Pillow ("": its own); for "RGBA" it must bring an alpha.

    Raises:
        CollectionError: damaged, no picture, huge, or without alpha.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if mode == "RGBA" and not image.has_transparency_data:
                raise CollectionError(
                    f"{label} has no alpha channel, so that its object is not known; cut it out "
                    "first, for example with fastrecon curate"
                )
            return image if mode in ("", image.mode) else image.convert(mode)
    except CollectionError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise CollectionError(f"{label} is missing or damaged ({error}); {AGAIN}") from error


def decode_rgba(data: bytes, label: str) -> Pixels:
    """A picture file's straight RGBA, 8 bits, ``(H, W, 4)``.

    Raises:
        CollectionError: as `open_picture`.
    """
    return np.asarray(open_picture(data, label, "RGBA"))


def reduced(rgba: Pixels, size: int) -> Pixels:
    """The picture with its longer side at most ``size`` pixels; means over areas, by alpha."""
    height, width = rgba.shape[:2]
    longer = max(height, width)
    if not size or longer <= size:
        return rgba
    shape = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
    # Premultiplied, so that the colour behind clear pixels does not bleed into the edges.
    image = Image.fromarray(rgba).convert("RGBa").resize(shape, Image.Resampling.BOX)
    return np.asarray(image.convert("RGBA"))


def encode_png(rgba: Pixels) -> bytes:
    """A PNG file; compressed little, as that takes most of the time."""
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, format="PNG", compress_level=3)
    return file.getvalue()
