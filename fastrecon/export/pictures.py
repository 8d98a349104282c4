"""Pictures for people: turntables, depth, normals, and a sheet that shows them together."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

Picture = NDArray[np.uint8]

SHOWN = 0.5
"""Opacity from which a pixel has a depth and a normal worth showing."""
NEAR_TO_FAR = np.array(
    [[252, 230, 160], [242, 150, 85], [200, 70, 95], [110, 40, 115], [25, 20, 60]], np.float64
)
"""Colours of depth, near to far: light comes forward, and grey-scale prints keep the order."""
WHITE = 255
GAP = 8
CAPTION = 16


def to_picture(rgb: Tensor) -> Picture:
    """``(H, W, 3)`` in [0, 1] to 8 bits."""
    return rgb.detach().clamp(0, 1).mul(255).round().byte().cpu().numpy()


def depth_picture(depth: Tensor, opacity: Tensor) -> Picture:
    """Depth ``(H, W)`` as colours from the nearest to the farthest shown pixel; white elsewhere."""
    values, shown = depth.detach().cpu().numpy(), opacity.detach().cpu().numpy() > SHOWN
    picture = np.full((*values.shape, 3), WHITE, np.uint8)
    if shown.any():
        near, far = np.quantile(values[shown], [0.01, 0.99])
        place = ((values[shown] - near) / max(far - near, 1e-6)).clip(0, 1)
        stops = np.linspace(0, 1, len(NEAR_TO_FAR))
        picture[shown] = np.stack([np.interp(place, stops, c) for c in NEAR_TO_FAR.T], -1)
    return picture


def normal_picture(
    rendered: tuple[Tensor, Tensor], rays: tuple[Tensor, Tensor], c2w: Tensor
) -> Picture:
    """Normals of the rendered surface in camera axes (x right, y up, z to the viewer) as RGB.

    Args:
        rendered: depth and opacity, ``(H, W)`` each.
        rays: rays_o and rays_d, ``(H, W, 3)`` each.
        c2w: ``(4, 4)``.
    """
    depth, opacity = (x.detach().cpu() for x in rendered)
    rays_o, rays_d = (x.detach().cpu() for x in rays)
    points = rays_o + depth[..., None] * rays_d
    across, down = torch.zeros_like(points), torch.zeros_like(points)
    across[:, 1:-1] = points[:, 2:] - points[:, :-2]
    down[1:-1] = points[2:] - points[:-2]
    normal = torch.nn.functional.normalize(torch.linalg.cross(down, across), dim=-1)
    in_camera = normal @ c2w[:3, :3].cpu().to(normal.dtype)
    picture = to_picture((in_camera + 1) / 2)
    picture[(opacity <= SHOWN).numpy()] = WHITE
    return picture


def png_bytes(picture: Picture) -> bytes:
    """An 8-bit picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def gif_bytes(frames: Sequence[Picture], seconds: float = 2.4) -> bytes:
    """Frames as an endlessly looping GIF that takes ``seconds`` per turn."""
    if not len(frames):
        raise ValueError("a GIF needs at least one frame, got none")
    # One palette for all frames, or flat areas flicker.
    strip = Image.fromarray(np.concatenate(list(frames)))
    palette = strip.quantize(256, method=Image.Quantize.MEDIANCUT)
    images = [Image.fromarray(f).quantize(palette=palette) for f in frames]
    file = io.BytesIO()
    images[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=max(20, round(1000 * seconds / len(images))),
        loop=0,
    )
    return file.getvalue()


def contact_sheet(
    cells: Sequence[tuple[str, Picture]], columns: int = 6, side: int = 160
) -> Picture:
    """Captioned pictures in rows, scaled to squares of ``side`` pixels."""
    rows = -(-len(cells) // columns)
    width, height = columns * (side + GAP) + GAP, rows * (side + GAP + CAPTION) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (caption, picture) in enumerate(cells):
        row, column = divmod(i, columns)
        x, y = GAP + column * (side + GAP), GAP + row * (side + GAP + CAPTION)
        cell = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(cell, (x, y + CAPTION))
        draw.text((x, y), caption, fill="black")
    return np.asarray(sheet)
