"""The options of ``fastrecon data render``, and the cameras that they mean."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from fastrecon.cameras import orbit_c2w, sample_orbits

from .layouts import Layout
from .meshes.mesh import MAX_FACES, MissingTexture, Up
from .meshes.render import Backend

FORMAT = 1
"""Of what is written; a run does not continue a folder of another one."""
FILL = 0.98
"""Radius of the object, as a share of the largest sphere that the picture holds."""


@dataclass(frozen=True)
class RenderOptions:
    """Render meshes to pictures with alpha, depth, normals and cameras.

    Writes OUT/<name>/ for every mesh: NNN.png, depth/NNN.png, normal/NNN.png, transforms.json, and
    NNN.npy in the layout "zero123". The same command again continues an interrupted run. A mesh
    that cannot be used is named in OUT/manifest.jsonl with the reason, and the exit code is 1.
    """

    meshes: tyro.conf.Positional[tuple[str, ...]]
    """GLB, OBJ and PLY files, folders (searched with their subfolders), or quoted globs."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("renders")
    """Folder to write to."""
    cameras: Literal["ring", "random"] = "ring"
    """"ring": evenly around the object; "random": orbits drawn for every object from its name."""
    views: int = 24
    """Views per object; of a ring, per elevation."""
    elevations: tuple[float, ...] = (20.0,)
    """Degrees: one ring each; of random orbits, lowest and highest (one value: fixed)."""
    seed: int = 0
    """Of random orbits."""
    distance: float = 1.9
    """Of the cameras from the object's centre, in scene units."""
    fov: float = 40.0
    """Field of view, degrees."""
    size: int = 256
    """Side of the pictures, pixels."""
    supersample: int = 2
    """Samples along a pixel's side, for smooth edges."""
    radius: float | None = None
    """Distance of the object's farthest point from its centre, scene units; by default as large as
    every view holds."""
    light: Literal["soft", "none"] = "soft"
    """"none": plain surface colours."""
    layout: Layout = "zero123"
    """"zero123" is "nerf" (transforms.json) plus one NNN.npy per view."""
    shards: float | None = None
    """Also pack the objects into OUT/shards/NNNNNN.tar for webdataset, this many MB each."""
    up: Up = "y"
    """Axis of the files that points up: y (glTF, most OBJ) or z (CAD, robotics)."""
    missing_texture: MissingTexture = "error"
    """What to do when a texture is not there: refuse the mesh, or draw its plain colour."""
    max_faces: int = MAX_FACES
    """Refuse meshes with more faces."""
    backend: Backend = "auto"
    """"egl" (OpenGL), "rays" (slower), or "auto": the first that works."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        if not self.meshes:
            raise ValueError("no mesh named; for example: fastrecon data render models/ -o renders")
        for name, least in (("views", 1), ("size", 8), ("supersample", 1), ("max_faces", 1)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.fov < 180:
            raise ValueError(f"--fov must lie between 0 and 180 degrees, got {self.fov}")
        if not 0 < self.distance < math.inf:
            raise ValueError(f"--distance must be positive, got {self.distance}")
        if not 0 < self.object_radius < self.distance:
            raise ValueError(
                f"--radius must be positive and less than --distance {self.distance}, "
                f"got {self.radius}"
            )
        if not self.elevations or not all(-90 <= e <= 90 for e in self.elevations):
            raise ValueError(f"--elevations must be degrees from -90 to 90, got {self.elevations}")
        if self.cameras == "random" and len(self.elevations) > 2:
            raise ValueError(
                "--elevations of random cameras are the lowest and the highest, "
                f"got {len(self.elevations)} values"
            )
        if self.shards is not None and not self.shards > 0:
            raise ValueError(f"--shards must be a positive number of MB, got {self.shards}")

    @property
    def object_radius(self) -> float:
        """Radius of the sphere that holds every object, scene units."""
        if self.radius is not None:
            return self.radius
        return FILL * self.distance * math.sin(math.radians(self.fov) / 2)

    def settings(self) -> dict[str, Any]:
        """What the pictures are a function of, besides the meshes."""
        apart = {"meshes", "out", "shards", "backend"}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        return {"format": FORMAT, **json.loads(json.dumps(own))}

    def c2w(self, name: str) -> Tensor:
        """The cameras of one object, (V, 4, 4) float64."""
        if self.cameras == "ring":
            azimuth = torch.arange(self.views, dtype=torch.float64) * (2 * math.pi / self.views)
            elevation = torch.tensor(self.elevations, dtype=torch.float64).deg2rad()
            return orbit_c2w(azimuth[None], elevation[:, None], self.distance).reshape(-1, 4, 4)
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        limits = [math.radians(e) for e in (min(self.elevations), max(self.elevations))]
        azimuth, elevation = sample_orbits(generator, self.views, elevations=limits)
        return orbit_c2w(azimuth.double(), elevation.double(), self.distance)
