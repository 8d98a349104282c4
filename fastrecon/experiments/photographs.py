"""Single pictures of meshes as collections of photographs have them, one of each object.

Every object is turned and tilted at random, stands off the middle, sometimes cut by the frame, and
has lights of its own. Backgrounds are removed: the files are RGBA.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ..cameras import orbit_c2w
from ..checkpoint import write_atomic
from ..config import LRMConfig
from ..data.meshes.mesh import Mesh, Up, load_mesh
from ..data.meshes.render import Lighting, MeshRenderer
from ..data.procedural.bounds import fit_to_view
from ..errors import MeshError
from ..evaluation.mesh_set import SUPERSAMPLE, turned
from .experiment import ExperimentError

ELEVATIONS = (-5.0, 20.0)
"""Degrees that the photographer looks down, uniform."""
FILL = (0.55, 0.9)
"""Share of the picture's side that the object's bounding square has."""
CUT_FILL = (0.95, 1.15)
CUT_SHARE = 0.1
"""Pictures of which the frame may cut the object."""
AMBIENT = (0.25, 0.55)
FROM_THE_SIDE = math.radians(110.0)
"""Lights stand at most so far from the camera's direction: nobody photographs into the light."""
MAX_REACH = 0.9
"""Objects stay nearer to the origin than this share of the camera's distance."""
LEAST_ALPHA = 0.01
"""Share of a picture that must be object."""
MANIFEST = "photographs.json"


@dataclass(frozen=True)
class Photographs:
    """``folder/<name>.png`` for every mesh; what they are a function of is written beside it.

    Args:
        meshes: files by name.
        folder: for the pictures alone.
        model: whose canonical camera takes them.
        side: of the pictures, pixels.
        up: axis of the files that points up.
    """

    meshes: Mapping[str, Path]
    folder: Path
    model: LRMConfig
    side: int
    seed: int
    up: Up = "y"

    @property
    def manifest(self) -> Path:
        """What the pictures are a function of, and which meshes gave none."""
        return self.folder.with_name(MANIFEST)

    def failed(self) -> dict[str, str]:
        """The reason for every mesh that gave no picture, as far as they were tried.

        Raises:
            ExperimentError: the folder holds pictures made otherwise.
        """
        if not self.manifest.exists():
            return {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self.manifest.read_text(encoding="utf-8"))
            if content["made"] == self._made():
                return dict(content["failed"])
        raise ExperimentError(
            f"the photographs beside {self.manifest} were made otherwise (other meshes, camera, "
            "size or seed); give the same values to continue, or another --out for a new experiment"
        )

    def missing(self) -> list[str]:
        """Meshes that are still to be photographed."""
        failed = self.failed()
        return [
            name for name in self.meshes if name not in failed and not self._path(name).exists()
        ]

    def render(self) -> dict[str, str]:
        """Make what is missing; a mesh that cannot be used is noted. Returns ``failed()``.

        Raises:
            ExperimentError: as `failed`, or no mesh gives a picture.
        """
        failed, missing = self.failed(), self.missing()
        if missing:
            self._write(failed)
            with MeshRenderer() as renderer:
                for name in tqdm(missing, "photographs", unit="mesh", leave=False, disable=None):
                    try:
                        mesh = load_mesh(self.meshes[name], up=self.up, missing_texture="colour")
                        picture = photograph(
                            renderer, mesh, self.model, self.side, f"{self.seed}/{name}"
                        )
                    except MeshError as error:
                        failed[name] = str(error)
                        continue
                    write_atomic(self._path(name), _png(picture))
            self._write(failed)
        if len(failed) == len(self.meshes):
            name, reason = next(iter(failed.items()), ("", "there is none"))
            raise ExperimentError(f"no mesh could be photographed; the first, {name}: {reason}")
        return failed

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    def _made(self) -> dict[str, Any]:
        return {
            "side": self.side,
            "seed": self.seed,
            "up": self.up,
            "camera_distance": self.model.camera_distance,
            "fov_deg": self.model.fov_deg,
            "meshes": sorted(self.meshes),
        }

    def _write(self, failed: dict[str, str]) -> None:
        content = {"made": self._made(), "failed": failed}
        write_atomic(self.manifest, json.dumps(content, indent=1).encode())


def photograph(
    renderer: MeshRenderer, mesh: Mesh, model: LRMConfig, side: int, seed: str
) -> NDArray[np.uint8]:
    """One picture (side, side, 4) of a mesh, a function of ``seed``; straight alpha.

    Raises:
        MeshError: nothing of the mesh can be seen from there.
    """
    digest = hashlib.sha256(seed.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    mesh = tilted(
        turned(mesh, rng.uniform(-math.pi, math.pi)), math.radians(rng.uniform(*ELEVATIONS))
    )
    fill = rng.uniform(*(CUT_FILL if rng.random() < CUT_SHARE else FILL))
    # Off the middle by what room there is; where there is none, a little over the edge.
    offset = rng.uniform(-1.0, 1.0, 2) * max(1.0 - fill, 0.08)
    renderer.lighting = lighting(rng)
    mesh = _placed(mesh, model, fill, offset)
    camera = orbit_c2w(0.0, 0.0, model.camera_distance)[None]
    rgba = renderer.render(mesh, camera, side, model.fov_deg, SUPERSAMPLE).rgba[0, 0]
    if float(rgba[3].mean()) < LEAST_ALPHA:
        raise MeshError("hardly a pixel of it is seen from where it was photographed")
    return (rgba.clamp(0.0, 1.0) * 255.0).round().byte().permute(1, 2, 0).numpy()


def lighting(rng: np.random.Generator) -> Lighting:
    """Two or three lights from above or the side, and light from everywhere."""
    ambient, count = rng.uniform(*AMBIENT), int(rng.integers(2, 4))
    strengths = rng.dirichlet(np.ones(count)) * (1.0 - ambient) * rng.uniform(0.75, 1.0)
    azimuths = rng.uniform(-FROM_THE_SIDE, FROM_THE_SIDE, count)
    heights = rng.uniform(-0.3, 1.0, count)
    rows = [
        (math.cos(a), math.sin(a), float(height), float(strength))
        for a, height, strength in zip(azimuths, heights, strengths, strict=True)
    ]
    return Lighting(float(ambient), tuple(rows))


def tilted(mesh: Mesh, elevation: float) -> Mesh:
    """The mesh as a camera sees it that looks down by ``elevation``, radians."""
    cos, sin = math.cos(elevation), math.sin(elevation)
    turn = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    return replace(
        mesh,
        vertices=(mesh.vertices @ turn.T).astype(np.float32),
        normals=(mesh.normals @ turn.T).astype(np.float32),
        transform=matrix @ mesh.transform,
    )


def _placed(mesh: Mesh, model: LRMConfig, fill: float, offset: NDArray[np.float64]) -> Mesh:
    tangent = math.tan(math.radians(model.fov_deg) / 2)
    scale, shift = fit_to_view(
        torch.from_numpy(mesh.vertices).double()[None],
        model.camera_distance,
        torch.tensor([fill * tangent]).double(),
        torch.from_numpy(offset * tangent)[None],
        MAX_REACH * model.camera_distance,
    )
    factor, moved = float(scale), shift[0].numpy()
    matrix = np.diag([factor, factor, factor, 1.0])
    matrix[:3, 3] = moved
    vertices = (mesh.vertices.astype(np.float64) * factor + moved).astype(np.float32)
    return replace(mesh, vertices=vertices, transform=matrix @ mesh.transform)


def _png(picture: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    return data.getvalue()
