"""Scenes of simple shapes at known depths, drawn back to front, so hiding is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from fastrecon.curation.masks import Mask
from fastrecon.curation.occlusion import DepthKind

HEIGHT, WIDTH = 480, 640
BACKGROUND = 12.0
GRAIN = np.random.default_rng(0).standard_normal(2 * HEIGHT * WIDTH, np.float32)


@dataclass
class Shape:
    """A shape in the plane, its distance, and how its surface leaves that distance."""

    kind: str  # ellipse | box | star | pole | bracket
    centre: tuple[float, float]  # x, y
    size: tuple[float, float]  # half sides
    z: float
    turn: float = 0.0
    bulge: float = 0.0  # the middle is nearer than the rim by this share of z
    tilt: tuple[float, float] = (0.0, 0.0)  # share of z over half a side

    def draw(self, x: NDArray, y: NDArray) -> tuple[NDArray[np.bool_], NDArray]:
        """The pixels that it covers, and the distance of each of those."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        u, v = np.float32(x - self.centre[0]), np.float32(y - self.centre[1])
        u, v = (cos * u + sin * v) / self.size[0], (cos * v - sin * u) / self.size[1]
        r2 = u * u + v * v
        square = (abs(u) <= 1) & (abs(v) <= 1)
        if self.kind == "ellipse":
            inside = r2 <= 1
        elif self.kind == "star":
            inside = np.sqrt(r2) <= 0.72 + 0.28 * np.cos(5 * np.arctan2(v, u))
        elif self.kind == "bracket":
            inside = square & ((u < -0.3) | (v > 0.3))
        else:
            inside = square
        slope = self.tilt[0] * u + self.tilt[1] * v
        relief = slope[inside] - self.bulge * np.clip(1 - r2[inside], 0, None)
        return inside, self.z * (1 + relief)


@dataclass
class Scene:
    masks: list[Mask]  # what is visible of every shape that is visible at all
    hidden: list[float]  # the share of the shape that is not
    z: NDArray  # (H, W) exact distance

    def depth(self, kind: DepthKind, noise: np.random.Generator | None = None) -> NDArray:
        """As a depth network and an 8-bit file leave it: soft edges, waves, grain, 256 steps."""
        values = 1 / self.z if kind == "disparity" else self.z
        if noise is None:
            return values
        height, width = values.shape
        soft = uniform_filter(values.astype(np.float32), 5)
        coarse = noise.normal(size=(height // 40, width // 40)).astype(np.float32)
        waves = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        start = int(noise.integers(GRAIN.size - height * width))
        grain = GRAIN[start : start + height * width].reshape(height, width)
        values = soft * (1 + np.float32(0.02) * np.asarray(waves) + np.float32(0.01) * grain)
        return np.round(values * (255 / values.max())).clip(0, 255).astype(np.uint8)


def draw(shapes: list[Shape], height: int = HEIGHT, width: int = WIDTH) -> Scene:
    """Painter's algorithm; ``Shape.z`` gives the order."""
    owner = np.full((height, width), -1, np.int8)
    z = np.full((height, width), BACKGROUND, np.float32)
    areas = {}
    order = sorted(range(len(shapes)), key=lambda k: -shapes[k].z)
    for k in order:
        shape = shapes[k]
        reach = np.hypot(*shape.size) + 1
        x0, y0 = (max(0, int(c - reach)) for c in shape.centre)
        x1, y1 = (int(c + reach) + 2 for c in shape.centre)
        y, x = np.ogrid[y0 : min(y1, height), x0 : min(x1, width)]
        inside, surface = shape.draw(x, y)
        areas[k] = inside.sum()
        owner[y0:y1, x0:x1][inside] = k
        z[y0:y1, x0:x1][inside] = surface
    masks, hidden = [], []
    for k in range(len(shapes)):
        mask = Mask.cut(owner == k)
        if mask is not None:
            masks.append(mask)
            hidden.append(1 - mask.inside.sum() / areas[k])
    return Scene(masks, hidden, z)


def random_scene(rng: np.random.Generator) -> Scene:
    """Some objects on 640 x 480, most of them in groups, every one at least 10% behind the next."""
    count = int(rng.integers(4, 9))
    z = 1.3 * np.cumprod(1 + rng.uniform(0.1, 0.5, count))
    shapes: list[Shape] = []
    for k in rng.permutation(count):
        kind = str(rng.choice(["ellipse", "ellipse", "box", "box", "star", "pole", "bracket"]))
        size = rng.uniform(50, 110, 2)
        if kind == "pole":
            size = np.array([rng.uniform(6, 14), rng.uniform(90, 140)])
        if shapes and rng.random() < 0.7:  # beside or across another one
            other = shapes[int(rng.integers(len(shapes)))]
            angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.15)
            span = (size.mean() + np.mean(other.size)) * far
            centre = np.array(other.centre) + span * np.array([np.cos(angle), np.sin(angle)])
        else:
            centre = rng.uniform((0, 0), (WIDTH, HEIGHT))
        reach = np.hypot(*size) * 0.85
        centre = centre.clip(reach + 12, np.array([WIDTH, HEIGHT]) - reach - 12)
        shapes.append(
            Shape(
                kind,
                (float(centre[0]), float(centre[1])),
                (float(size[0]), float(size[1])),
                float(z[k]),
                float(rng.uniform(-0.5, 0.5)),
                float(rng.uniform(0, 0.06)),
                (float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03))),
            )
        )
    return draw(shapes)
