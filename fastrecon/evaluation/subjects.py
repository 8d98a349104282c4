"""What a model is judged on: an object's picture, its true views, its true surface.

Every object stands as ``fastrecon reconstruct`` would place a photograph of it (see
``fastrecon.data.stream``), so the model's world and the truth's are the same and nothing is aligned
afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..cameras import orbit_c2w, view_angle
from ..config import INPUT_GREY, Config, LRMConfig
from ..data.procedural import ProceduralObjects
from ..data.procedural.scene import Scene
from ..data.stream import HELD_OUT, REACH, validation_set
from .geometry import Points, Surface, isosurface, lattice

TRUTH_RESOLUTION = 128
"""Grid points along the longest side of a procedural object where its surface is found."""
TRUTH_MARGIN = 0.05
"""The box of that grid, beyond the known surface points, as a share of its longest side."""


@dataclass(frozen=True)
class Subject:
    """One object to reconstruct, and the truth about it."""

    name: str
    rgba: Tensor  # (4, S, S) what the input camera sees, straight alpha
    c2w: Tensor  # (V, 4, 4) the views to compare
    pictures: Tensor  # (V, 3, H, W) the truth there, on white
    surface: Surface | None
    """The true one; None in a set that is made without surfaces."""

    def image(self, background: float = INPUT_GREY) -> Tensor:
        """The model's input (3, S, S), the object on a grey level."""
        colour, alpha = self.rgba[:3], self.rgba[3:]
        return (colour * alpha + background * (1.0 - alpha)).clamp(0.0, 1.0)

    @property
    def angles(self) -> Tensor:
        """Degrees between each view's direction and the input view's: (V,)."""
        return view_angle(self.c2w, orbit_c2w(0.0, 0.0, 1.0))


class Skipped(NamedTuple):
    """An object that could not be used."""

    name: str
    reason: str


class SubjectSet(Protocol):
    """Subjects one after the other; what turns out unusable is not given but noted."""

    key: str
    """Short name, for files."""
    title: str
    skipped: list[Skipped]
    notes: list[str]

    @property
    def description(self) -> str:
        """In a sentence."""
        ...

    def __len__(self) -> int:
        """How many objects are tried."""
        ...

    def __iter__(self) -> Iterator[Subject]: ...


class Placement(NamedTuple):
    """Where a prepared photograph has its object; arguments of ``bounds.fit_to_view``."""

    distance: float
    half_side: float
    max_reach: float

    @classmethod
    def of(cls, model: LRMConfig) -> Placement:
        """The placement that a model expects."""
        tangent = math.tan(math.radians(model.fov_deg) / 2)
        return cls(
            model.camera_distance, model.foreground_ratio * tangent, REACH * model.render.radius
        )


@dataclass
class ProceduralSet:
    """Held-out procedural objects: those of ``validation_set``, with their surfaces.

    Args:
        cfg: ``cfg.data`` says which collection, ``cfg.model`` how objects stand and are seen.
        n_objects, n_views: at least one each.
        size: side of the true pictures, pixels.
        surfaces: find the true surfaces, which takes longer than all pictures.
    """

    cfg: Config
    n_objects: int
    n_views: int
    size: int
    key: str = "procedural"
    title: str = "Held-out procedural objects"
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    surfaces: bool = True

    @property
    def description(self) -> str:
        """In a sentence."""
        data = self.cfg.data
        return (
            f"{self.n_objects} procedural objects (seed {data.seed}, at most {data.max_parts} "
            f"parts, indices from 2^40) that training never sees, {self.n_views} random views each"
        )

    def __len__(self) -> int:
        return self.n_objects

    def __iter__(self) -> Iterator[Subject]:
        model, cfg = self.cfg.model, self.cfg
        truth = validation_set(cfg, self.n_objects, self.n_views, self.size)
        scene = placed_scene(cfg, HELD_OUT, self.n_objects)
        canonical = orbit_c2w(0.0, 0.0, model.camera_distance).expand(1, 1, 4, 4)
        side, supersample = model.encoder.image_size, cfg.data.supersample
        for i in range(self.n_objects):
            one = scene.rows(slice(i, i + 1))
            yield Subject(
                name=f"procedural-{i:03d}",
                rgba=one.render(canonical, side, model.fov_deg, supersample).rgba[0, 0],
                c2w=truth.c2w[i],
                pictures=truth.rgb[i],
                surface=scene_surface(one) if self.surfaces else None,
            )


def placed_scene(cfg: Config, first: int, count: int) -> Scene:
    """``count`` procedural objects from index ``first`` on, placed without jitter."""
    place = Placement.of(cfg.model)
    indices = range(first, first + count)
    scene = ProceduralObjects(cfg.data.seed, cfg.data.max_parts).batch(indices)
    half_side = torch.full((count,), place.half_side)
    return scene.fitted(place.distance, half_side, torch.zeros(count, 2), place.max_reach)


def scene_surface(scene: Scene, resolution: int = TRUTH_RESOLUTION) -> Surface:
    """The surface of a scene of one object: marching cubes on its signed distance.

    Details thinner than a cell, about a hundredth of the object's longest side, may be missing.
    """
    points: Points = scene.points[0].numpy().astype(np.float64)
    low, high = points.min(0), points.max(0)
    margin = TRUTH_MARGIN * (high - low).max()
    grid = lattice(low - margin, high + margin, resolution)
    distance = scene.distance(torch.from_numpy(grid.points)[None])[0]
    return isosurface(-distance.reshape(grid.shape).numpy(), 0.0, grid)
