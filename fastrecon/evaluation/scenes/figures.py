"""The supplement's figures, of any models: density scales (S1), levels (S2), the kernel (S3).

Drawn with Pillow; every picture stands in a captioned grid or on labelled axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from fastrecon_kernels import DepthKernel, Rendering, depth_kernel
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...data.rgbd import RGBDBatch
from ...export.pictures import Picture, depth_picture, to_picture
from ...models.trigen import TriGen
from ...scene_cameras import scene_c2w, scene_rays

SIDE = (0.25, 0.1)
"""Yaw and pitch, radians, of the figures' views: from the front, wrong shapes do not show."""
SCENES = 3
"""Scenes in a figure."""
CELL, GAP, CAPTION, LABEL = 128, 4, 16, 74
LEVELS = ((2, 2, 2), (1, 1, 2), (0, 1, 2))
"""Of Fig. S2, from only the coarsest to all."""
SEED = 0
PLOT = (640, 320)
MARGINS = (56, 22, 16, 44)
"""Left, top, right, bottom of the plot's axes, pixels."""
BLUE, GREY, LIGHT = (31, 100, 180), (90, 90, 90), (225, 225, 225)
OVERSIZE = 2
"""The plot is drawn this much larger and reduced: Pillow's lines are not anti-aliased."""


def sigma_figure(
    models: Mapping[str, TriGen], batch: RGBDBatch, scales: Sequence[float]
) -> Picture:
    """Fig. S1: colour and depth of scenes at every density scale, the models side by side."""
    heads = ["input", *(f"{_short(name)}  x {scale:g}" for name in models for scale in scales)]
    rows: list[tuple[str, list[Picture]]] = []
    for i in range(min(SCENES, len(batch.images))):
        colours, depths = [_input(batch, i)], [depth_picture(*_known(batch, i))]
        for model in models.values():
            levels = model.pyramid(_encoded(model, batch, i))
            seen = [_side(model, levels, scale) for scale in scales]
            colours += [to_picture(model.pictures(one)) for one in seen]
            depths += _depths(seen)
        rows += [("colour", colours), ("depth", depths)]
    return _grid(heads, rows)


def level_figure(models: Mapping[str, TriGen], batch: RGBDBatch) -> Picture:
    """Fig. S2: scenes from the coarsest level of the planes alone, from two, and from all."""
    named = ["".join(f"G{level + 1}" for level in levels) for levels in LEVELS]
    heads = ["input", *(f"{_short(name)}  {levels}" for name in models for levels in named)]
    rows = []
    for i in range(min(SCENES, len(batch.images))):
        shown = [_input(batch, i)]
        for model in models.values():
            planes = _encoded(model, batch, i)
            seen = [_side(model, model.pyramid(planes, levels), 1.0) for levels in LEVELS]
            shown += [to_picture(model.pictures(one)) for one in seen]
        rows.append((f"scene {i + 1}", shown))
    return _grid(heads, rows)


def _input(batch: RGBDBatch, i: int) -> Picture:
    return to_picture(batch.images[i].movedim(0, -1))


def _known(batch: RGBDBatch, i: int) -> tuple[Tensor, Tensor]:
    """The input's depth, and that all of it is shown."""
    depth = batch.depth[i, 0]
    return depth, torch.ones_like(depth)


def _depths(seen: Sequence[Rendering]) -> list[Picture]:
    """Depth as colours, on one scale for all."""
    depth = torch.cat([one.depth for one in seen], dim=1)
    opacity = torch.cat([one.opacity for one in seen], dim=1)
    return np.split(depth_picture(depth, opacity), len(seen), axis=1)


@torch.no_grad()
def _encoded(model: TriGen, batch: RGBDBatch, i: int) -> Tensor:
    device = next(model.parameters()).device
    image, depth = (x[i : i + 1].to(device) for x in (batch.images, batch.depth))
    return model.encode(image, depth).float()


@torch.no_grad()
def _side(model: TriGen, levels: Sequence[Tensor], scale: float) -> Rendering:
    """What is seen from the figures' side, (S, S, ...)."""
    camera = model.config.camera
    c2w = scene_c2w(*SIDE, camera.radius).to(levels[0].device)
    rays_o, rays_d = scene_rays(c2w, model.config.size, camera.fov_deg)
    settings = model.viewing_settings
    settings = replace(settings, density_scale=settings.density_scale * scale)
    rgb, opacity, depth, _ = model.render(
        levels, rays_o[None], rays_d[None], settings=settings, seed=SEED
    )
    return Rendering(rgb[0], opacity[0], depth[0])


def _grid(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Picture]]]) -> Picture:
    """Rows of pictures under heads, a label before each."""
    width = LABEL + len(heads) * (CELL + GAP)
    canvas = Image.new("RGB", (width, CAPTION + len(rows) * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, head in enumerate(heads):
        draw.text((LABEL + column * (CELL + GAP), 1), head, "black")
    for row, (label, pictures) in enumerate(rows):
        y = CAPTION + row * (CELL + GAP)
        draw.text((GAP, y + CELL // 2 - 6), label, "black")
        for column, picture in enumerate(pictures):
            cell = Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.LANCZOS)
            canvas.paste(cell, (LABEL + column * (CELL + GAP), y))
    return np.asarray(canvas)


def _short(name: str, most: int = 12) -> str:
    """A name that fits over a picture: its end."""
    return name if len(name) <= most else "..." + name[3 - most :]


def kernel_curve(
    kernel: DepthKernel, depth_range: Sequence[float], points: int = 513
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Distances over the range, the kernel there, and the known depth, the range's middle."""
    near, far = depth_range
    t = torch.linspace(near, far, points, dtype=torch.double)
    middle = (near + far) / 2
    values = depth_kernel(t, torch.tensor(middle, dtype=torch.double), **kernel._asdict())
    return t.numpy(), values.numpy(), middle


def kernel_figure(kernel: DepthKernel, depth_range: Sequence[float]) -> Picture:
    """Fig. S3: what gradients are multiplied by, along a ray whose depth is known."""
    left, top, right, bottom = (OVERSIZE * m for m in MARGINS)
    width, height = (OVERSIZE * s for s in PLOT)
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(OVERSIZE * 12)
    t, values, middle = kernel_curve(kernel, depth_range)
    high = max(1.0, float(values.max())) * 1.1

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - t[0]) / (t[-1] - t[0])
        return (
            left + (width - left - right) * across,
            height - bottom - (height - top - bottom) * y / high,
        )

    for y in np.arange(0.0, high, 0.25):
        draw.line([place(t[0], y), place(t[-1], y)], fill=GREY if y == 0 else LIGHT, width=OVERSIZE)
        spot = place(t[0], y)
        draw.text((spot[0] - 6 * OVERSIZE, spot[1]), f"{y:.2f}", "black", font, "rm")
    for x in np.linspace(t[0], t[-1], 9):
        spot = place(x, 0.0)
        draw.line([spot, (spot[0], spot[1] + 4 * OVERSIZE)], fill=GREY, width=OVERSIZE)
        draw.text((spot[0], spot[1] + 6 * OVERSIZE), f"{x:.2f}", "black", font, "mt")
    draw.line([place(middle, 0.0), place(middle, high)], fill=LIGHT, width=OVERSIZE)
    spot = place(middle, high)
    draw.text((spot[0] + 4 * OVERSIZE, spot[1]), "known depth", GREY, font, "lt")
    curve = [place(x, y) for x, y in zip(t, values, strict=True)]
    draw.line(curve, fill=BLUE, width=2 * OVERSIZE)
    words = (left + (width - left - right) / 2, height - bottom + 24 * OVERSIZE)
    draw.text((left, 0), "gradients are multiplied by", "black", font, "lt")
    draw.text(words, "distance of the sample along the ray", "black", font, "mt")
    return np.asarray(canvas.resize(PLOT, Image.Resampling.LANCZOS))
