"""Meshes from files as an evaluation set: objects of a kind that the training never shows."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..cameras import orbit_c2w, sample_orbits
from ..config import LRMConfig
from ..data.meshes.mesh import Mesh, MissingTexture, Up, load_mesh
from ..data.meshes.render import MeshRenderer
from ..data.procedural.bounds import fit_to_view
from ..data.render_set import find_meshes
from ..errors import MeshError
from .geometry import Surface
from .subjects import Placement, Skipped, Subject

SUPERSAMPLE = 4
"""Samples along a pixel's side; meshes are cheap to draw."""
SOLID = 0.5
"""Alpha above this belongs to the silhouette."""


@dataclass
class MeshSet:
    """Mesh files, each turned by a random angle about the vertical and placed like a photograph.

    Args:
        named: files, folders (searched with their subfolders) or globs.
        most: objects at most; of more, a seeded choice that takes as evenly as it can from every
            folder.
        model: how objects stand and are seen.
        n_views: random views of the training distribution per object.
        size: side of the true pictures, pixels.
        seed: of the choice, the turns and the views; an object's own do not depend on the others.
        up: axis of the files that points up.
        missing_texture: "colour" draws a mesh whose texture is not there in plain colour.

    Raises:
        RenderSetError: something named does not exist, or holds no mesh.
        RenderError: meshes cannot be drawn on this machine.
    """

    named: Sequence[str]
    most: int
    model: LRMConfig
    n_views: int
    size: int
    seed: int = 0
    up: Up = "y"
    missing_texture: MissingTexture = "colour"
    key: str = "meshes"
    title: str = "Meshes"
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        found = find_meshes(self.named)
        self.found = len(found)
        self.chosen = choose(found, self.most, self.seed)
        MeshRenderer().close()  # a machine that cannot draw says so before the work, not after it

    @property
    def description(self) -> str:
        """In a sentence."""
        many = len(self.chosen)
        which = "all" if many == self.found else f"a choice (seed {self.seed}) of"
        return (
            f"{which} {self.found} mesh files{'' if many == self.found else f', {many} of them'}, "
            f"each turned by a random angle about the vertical, {self.n_views} random views each"
        )

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Subject]:
        self.skipped.clear()
        self.notes.clear()
        with MeshRenderer() as renderer:
            for name, path in self.chosen.items():
                try:
                    mesh = load_mesh(path, up=self.up, missing_texture=self.missing_texture)
                    subject = self._subject(renderer, name, mesh)
                except MeshError as error:
                    self.skipped.append(Skipped(name, str(error)))
                    continue
                self.notes += [f"{name}: {note}" for note in mesh.notes]
                yield subject

    def _subject(self, renderer: MeshRenderer, name: str, mesh: Mesh) -> Subject:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        yaw = 2.0 * math.pi * float(torch.rand((), generator=generator))
        mesh = placed(turned(mesh, yaw), Placement.of(self.model))
        canonical = orbit_c2w(0.0, 0.0, self.model.camera_distance)[None]
        side, fov = self.model.encoder.image_size, self.model.fov_deg
        rgba = renderer.render(mesh, canonical, side, fov, SUPERSAMPLE).rgba[0, 0]
        if not bool((rgba[3] > SOLID).any()):
            raise MeshError(
                f"{name} is thinner than a pixel as the input camera sees it; another --seed "
                "turns it otherwise"
            )
        azimuth, elevation = sample_orbits(generator, self.n_views)
        c2w = orbit_c2w(azimuth, elevation, self.model.camera_distance)
        pictures = renderer.render(mesh, c2w, self.size, fov, SUPERSAMPLE).rgba[0]
        colour, alpha = pictures[:, :3], pictures[:, 3:]
        return Subject(
            name=name,
            rgba=rgba,
            c2w=c2w,
            pictures=colour * alpha + 1.0 - alpha,
            surface=Surface(mesh.vertices, mesh.faces),
        )


def choose(found: dict[str, Path], most: int, seed: int) -> dict[str, Path]:
    """At most ``most`` of the meshes: small folders whole, of large ones a seeded choice."""
    folders: dict[Path, list[str]] = {}
    for name, path in found.items():
        folders.setdefault(path.parent, []).append(name)
    kept: set[str] = set()
    for k, names in enumerate(sorted(folders.values(), key=len)):
        share = (most - len(kept)) // (len(folders) - k)
        chance = random.Random(f"{seed}/{names[0]}")
        kept.update(names if len(names) <= share else chance.sample(names, share))
    return {name: path for name, path in found.items() if name in kept}


def turned(mesh: Mesh, yaw: float) -> Mesh:
    """The mesh turned about the vertical by ``yaw``, radians."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    return replace(
        mesh,
        vertices=(mesh.vertices @ turn.T).astype(np.float32),
        normals=(mesh.normals @ turn.T).astype(np.float32),
        transform=matrix @ mesh.transform,
    )


def placed(mesh: Mesh, place: Placement) -> Mesh:
    """The mesh where a prepared photograph would have it; fitted on its vertices."""
    points = torch.from_numpy(mesh.vertices).double()[None]
    half_side, centred = torch.tensor([place.half_side]).double(), torch.zeros(1, 2).double()
    scale, shift = fit_to_view(points, place.distance, half_side, centred, place.max_reach)
    factor, offset = float(scale), shift[0].numpy()
    matrix = np.diag([factor, factor, factor, 1.0])
    matrix[:3, 3] = offset
    vertices = (mesh.vertices.astype(np.float64) * factor + offset).astype(np.float32)
    return replace(mesh, vertices=vertices, transform=matrix @ mesh.transform)
