"""Sheets of posed pictures and photographs: input, truth and what the model makes of it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..export.pictures import Picture
from .views import INPUT, NOVEL, THUMBNAIL, Measured, ViewResult

GAP, CAPTION, LABEL = 4, 15, 82
SHOWN = 6
"""Objects on a sheet: from the best to the worst, evenly."""
MOST = 8
"""Pictures in a row."""
ROWS = ("truth", "model", "around", "there and back")


def view_sheet(result: ViewResult) -> Picture:
    """Objects from the best to the worst PSNR; the model's first picture is the input view."""
    group = NOVEL if NOVEL in result.groups else INPUT
    pictured = [one for one in result.measured if one.thumbnails]
    order = sorted(pictured, key=lambda one: -_score(one, group))
    places = np.round(np.linspace(0, len(order) - 1, min(SHOWN, len(order)))).astype(int)
    shown = [order[k] for k in places]
    rows = [row for row in ROWS if row in shown[0].thumbnails]
    columns = max(min(MOST, len(x)) for one in shown for x in one.thumbnails.values())
    height = CAPTION + len(rows) * (THUMBNAIL + GAP) + 2 * GAP
    width = 2 * GAP + THUMBNAIL + LABEL + columns * (THUMBNAIL + GAP)
    canvas = Image.new("RGB", (width, len(shown) * height + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for k, one in enumerate(shown):
        top = k * height + GAP
        draw.text((GAP, top), f"{one.name}: PSNR of {group} {_score(one, group):.1f} dB", "black")
        top += CAPTION
        canvas.paste(_cell(one.thumbnails["input"][0]), (GAP, top))
        for row, name in enumerate(rows):
            y = top + row * (THUMBNAIL + GAP)
            draw.text((2 * GAP + THUMBNAIL, y + THUMBNAIL // 2 - 6), name, "black")
            pictures = _in_columns(name, one.thumbnails[name])
            for column, picture in pictures[:columns]:
                x = 2 * GAP + THUMBNAIL + LABEL + column * (THUMBNAIL + GAP)
                canvas.paste(_cell(picture), (x, y))
    return np.asarray(canvas)


def _in_columns(name: str, pictures: Tensor) -> list[tuple[int, Tensor]]:
    """Pictures of a row and their columns: the truth lies above the model's view of the same."""
    first = 1 if name == "truth" else 0
    places = range(first, first + len(pictures))
    if name == "there and back":  # more than a row holds: evenly, the first left out
        keep = torch.linspace(1, len(pictures) - 1, min(MOST, len(pictures) - 1)).round().long()
        pictures, places = pictures[keep], range(len(keep))
    return list(zip(places, pictures, strict=True))


def _score(one: Measured, group: str) -> float:
    return float(one.groups[group]["psnr"].mean())


def _cell(picture: Tensor) -> Image.Image:
    return Image.fromarray(picture.movedim(0, -1).numpy())
