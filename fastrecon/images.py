"""Pictures from files to what a model reads.

`load_image` reads any picture that Pillow reads as straight RGBA; `isolate` makes sure that its
alpha tells the object from the background; `prepare_input` crops it to the object, on grey, at the
model's size. Bad input ends in an `ImageError` that says what to do.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .background import remove_background
from .config import LRMConfig
from .errors import ImageError

Pixels = NDArray[np.float32]

LONGEST_SIDE = 2048
"""Larger pictures are reduced to this before they become floats: no model reads more."""
OPAQUE = 250 / 255
"""Alpha above this is as good as opaque; JPEG-like noise in alpha is no cut-out."""
SOLID = 0.5
"""Alpha above this belongs to the object when its bounding box is taken."""


def load_image(path: str | os.PathLike[str]) -> Pixels:
    """A picture file as ``(H, W, 4)`` straight RGBA, float32 in [0, 1].

    Greyscale, palette, CMYK and 16-bit pictures are converted, EXIF rotation is applied, the first
    frame of an animation is taken, and pictures larger than 2048 px are reduced.

    Raises:
        ImageError: missing, empty, damaged, too large, or not a picture.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path} is a folder; name the pictures in it, for example {path}/*.png")
    if not path.exists():
        raise ImageError(f"{path} does not exist; check the path")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes); save the picture again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _to_rgba(image)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is not a picture in a known format; convert it to PNG or JPEG"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ImageError(
            f"{path} has more than {limit:.0f} million pixels; scale it down first (the models "
            "read at most 512 x 512)"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{path} is damaged or cut short ({error}); save it again") from error


def _to_rgba(image: Image.Image) -> Pixels:
    # JPEG can be decoded at a fraction of its size, which keeps a huge one out of memory.
    image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _deep_grey(upright)
    elif upright.mode == "CMYK":
        upright = upright.convert("RGB")
    rgba = upright.convert("RGBA")
    if max(rgba.size) > LONGEST_SIDE:
        rgba = _premultiplied_reduce(rgba)
    return (np.asarray(rgba) / np.float32(255)).astype(np.float32)


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-, 32-bit or float grey to 8 bits; Pillow alone would clip it to white."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    peak = float(values.max())
    if image.mode == "F":
        full = 1.0 if peak <= 1 else 255.0 if peak <= 255 else peak
    else:
        full = 65535.0 if image.mode.startswith("I;16") or peak > 255 else 255.0
    return Image.fromarray((values.clip(0, full) / full * 255).round().astype(np.uint8))


def _premultiplied_reduce(image: Image.Image) -> Image.Image:
    """Reduce without letting the colour of transparent pixels bleed into the edges."""
    scale = LONGEST_SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.convert("RGBa").resize((width, height), Image.Resampling.BOX).convert("RGBA")


def isolate(rgba: Pixels, name: str = "the picture") -> Pixels:
    """The picture with an alpha channel that cuts the object out.

    A picture with transparency is taken as it is. An opaque one loses its background: a plain one
    is found from the picture's border, any other needs the extra ``background``.

    Raises:
        ImageError: fully transparent, or no background that can be removed.
    """
    alpha = rgba[..., 3]
    if float(alpha.max()) <= 1 - OPAQUE:
        raise ImageError(
            f"{name} is fully transparent, there is no object in it; export it with its alpha"
        )
    if float((alpha < OPAQUE).mean()) > 1e-4:
        return rgba
    return remove_background(rgba, name)


def prepare_input(rgba: Pixels, config: LRMConfig) -> Tensor:
    """The model's input ``(3, S, S)`` in [0, 1]: the object centred, on `config.input_background`.

    The bounding square of what alpha shows fills ``config.foreground_ratio`` of the picture's side.
    An opaque picture is first given an alpha channel by `isolate`.
    """
    picture = framed(isolate(rgba), config.foreground_ratio, config.encoder.image_size)
    return on_background(picture, config.input_background)


def framed(rgba: Pixels, ratio: float, size: int, solid: float = SOLID) -> Tensor:
    """A picture ``(4, size, size)`` whose object is centred, colours times alpha (premultiplied).

    Args:
        rgba: ``(H, W, 4)`` straight, with something in it that alpha shows.
        ratio: share of the side that the object's bounding square fills.
        size: side of the result, pixels; resized bilinear with antialiasing.
        solid: alpha above this belongs to the object (half the largest, where none is above).
    """
    left, top, side = _crop(rgba[..., 3], ratio, solid)
    height, width = rgba.shape[:2]
    square = np.zeros((side, side, 4), dtype=np.float32)
    rows = slice(max(top, 0), min(top + side, height))
    columns = slice(max(left, 0), min(left + side, width))
    inside = square[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    alpha = rgba[rows, columns, 3:]
    inside[..., :3] = rgba[rows, columns, :3] * alpha
    inside[..., 3:] = alpha
    picture = torch.from_numpy(square).permute(2, 0, 1)[None]
    return F.interpolate(
        picture, (size, size), mode="bilinear", align_corners=False, antialias=True
    )[0]


def on_background(premultiplied: Tensor, background: float) -> Tensor:
    """Pictures ``(..., 4, H, W)``, colours times alpha, on a grey level: ``(..., 3, H, W)``."""
    colour, alpha = premultiplied[..., :3, :, :], premultiplied[..., 3:, :, :]
    return (colour + background * (1.0 - alpha)).clamp(0.0, 1.0)


def _crop(alpha: Pixels, ratio: float, threshold: float) -> tuple[int, int, int]:
    """Left, top and side of the square around the object; it may reach out of the picture."""
    solid = alpha > min(threshold, float(alpha.max()) / 2)
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(1, round(max(bottom - top, right - left) / ratio))
    return (
        round((left + right - side) / 2),
        round((top + bottom - side) / 2),
        side,
    )
