"""Tiny sets of posed pictures: a coloured ball seen from a ring of cameras, through the writer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastrecon.cameras import orbit_c2w
from fastrecon.data.layouts import transforms_json, view_files, view_names
from fastrecon.data.pictures import Pictures

SIZE, FOV, DISTANCE = 32, 40.0, 2.0
RADIUS_PX = 8
COLOUR = (0.8, 0.4, 0.2)


def ring(count: int, distance: float = DISTANCE) -> torch.Tensor:
    """Cameras (V, 4, 4) evenly around, from an azimuth that is not 0 on."""
    azimuths = 0.3 + torch.arange(count) * (2 * math.pi / count)
    return orbit_c2w(azimuths, 0.0, distance)


def disc(size: int = SIZE, radius: float = RADIUS_PX) -> torch.Tensor:
    """Straight RGBA (4, size, size) of a ball in the middle, without a soft edge."""
    ticks = torch.arange(size) + 0.5 - size / 2
    alpha = (ticks[:, None] ** 2 + ticks**2 < radius**2).float()[None]
    return torch.cat([torch.tensor(COLOUR)[:, None, None].expand(3, size, size), alpha])


def write_object(folder: Path, views: int) -> Path:
    """An object in the layout "nerf"."""
    folder.mkdir(parents=True)
    c2w, names = ring(views), view_names(views)
    rgba = disc().expand(1, views, 4, SIZE, SIZE)
    empty = torch.zeros(1, views, SIZE, SIZE)
    pictures = Pictures(rgba, empty, torch.zeros(1, views, 3, SIZE, SIZE))
    for name, data in view_files(pictures, c2w, 1e-3, names, "nerf"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "transforms.json").write_bytes(transforms_json(c2w, FOV, SIZE, 1e-3, {}))
    return folder


def write_photo(path: Path, rgba: torch.Tensor) -> Path:
    """A picture (4, H, W) as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rgba.movedim(0, -1).mul(255).round().byte().numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path
