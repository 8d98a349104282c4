"""``fastrecon data objects``: a contact sheet of what models learn from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image
from torch import Tensor

from ..cameras import orbit_c2w, sample_orbits
from ..checkpoint import write_atomic
from .procedural import ProceduralObjects
from .procedural.photos import photographs


@dataclass(frozen=True)
class SheetOptions:
    """Draw a contact sheet of procedural objects: two views of each, or photographs with depth."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("objects.png")
    """PNG to write."""
    count: int = 64
    """Objects."""
    columns: int = 8
    """Objects in a row."""
    size: int = 96
    """Side of a picture, pixels."""
    max_parts: int = 9
    """Most parts of an object."""
    seed: int = 0
    """Of the collection."""
    first: int = 0
    """Index of the first object."""
    photos: bool = False
    """Photographs in a room beside their depth, instead of two views on white."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        for name in ("count", "columns", "size", "max_parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")


def draw_sheet(options: SheetOptions) -> Tensor:
    """The sheet (3, H, W) in [0, 1]; places after the last object are white."""
    indices = range(options.first, options.first + options.count)
    pairs = _photo_pairs(options, indices) if options.photos else _view_pairs(options, indices)
    rows = -(-options.count // options.columns)
    sheet = torch.ones(rows * options.columns, *pairs.shape[1:])
    sheet[: options.count] = pairs
    sheet = sheet.unflatten(0, (rows, options.columns)).permute(2, 0, 3, 1, 4)
    return sheet.flatten(3).flatten(1, 2)


def write_sheet(options: SheetOptions) -> None:
    """Draw and write it, atomically."""
    pixels = (draw_sheet(options).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    encoded = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(encoded, format="PNG", optimize=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out, encoded.getvalue())


def _view_pairs(options: SheetOptions, indices: range) -> Tensor:
    """Two views a third of a turn apart, side by side: (n, 3, size, 2 size)."""
    scene = ProceduralObjects(options.seed, options.max_parts).batch(indices)
    azimuth, elevation = sample_orbits(
        torch.Generator().manual_seed(options.seed), options.count, elevations=(0.1, 0.6)
    )
    turns = azimuth[:, None] + torch.tensor([0.0, 2.1])
    c2w = orbit_c2w(turns, elevation[:, None], 3.2)
    pictures = scene.render_on(1.0, c2w, options.size, 40.0, 2)
    return torch.cat(pictures.unbind(1), dim=-1)


def _photo_pairs(options: SheetOptions, indices: range) -> Tensor:
    """A photograph and its depth (near is dark), side by side: (n, 3, size, 2 size)."""
    found = photographs(options.seed, indices, options.size, max_parts=options.max_parts)
    nearness = found.depth / found.depth.flatten(1).amax(1)[:, None, None]
    return torch.cat([found.rgb, nearness[:, None].expand(-1, 3, -1, -1)], dim=-1)
