"""From picture files to meshes and pictures: what ``fastrecon reconstruct`` does."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from .assets import SHIPPED_MODEL
from .checkpoint import CheckpointError, write_atomic
from .errors import ImageError, MeshError
from .export.mesh import extract_mesh, mesh_bytes
from .export.pictures import contact_sheet, gif_bytes, png_bytes, to_picture
from .export.views import Viewer
from .images import load_image, prepare_input
from .models.lrm import LRM

SHEET_AZIMUTHS = (0, 45, 90, 135, 180, 225, 270, 315)
"""Degrees; views of the contact sheet."""


@dataclass(frozen=True)
class Options:
    """Turn pictures into 3D objects.

    Writes OUT/<name>/: the mesh, turntable.gif, depth.png, normal.png, input.png (what the model
    read) and contact_sheet.png. An object on a transparent or plain background works as it is; for
    other photos install the extra "background".
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Picture files."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out")
    """Folder to write to."""
    weights: str = ""
    """Checkpoint folder, file or hub id (ours, TripoSR's, Real3D's); the shipped model if empty."""
    resolution: Annotated[int, tyro.conf.arg(metavar="N")] = 128
    """Grid points along a side of the box in which the mesh is cut."""
    level: float | None = None
    """Density at which the mesh is cut; the model's own if not given."""
    mesh: Literal["glb", "obj", "ply"] = "glb"
    """File format of the mesh (vertex colours in each)."""
    frames: int = 24
    """Frames of the turntable."""
    size: int = 128
    """Side of the turntable's frames, pixels."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:1"."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        if not self.images:
            raise ValueError("no picture named; for example: fastrecon reconstruct photo.png")
        for name, least in (("resolution", 4), ("frames", 1), ("size", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")


@dataclass
class Report:
    """What became of one picture."""

    source: Path
    folder: Path
    files: list[Path] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - start

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / name, data)
        self.files.append(self.folder / name)

    def summary(self) -> str:
        times = ", ".join(f"{part} {s:.1f} s" for part, s in self.seconds.items())
        names = "  ".join(path.name for path in self.files)
        return f"{self.source} -> {self.folder}/\n  {names}\n  {times}"


def load_model(weights: str, device: str) -> LRM:
    """The model that ``--weights`` and ``--device`` name.

    Raises:
        CheckpointError, ValueError: no such weights or device, saying what to do.
    """
    return LRM.from_pretrained(weights or SHIPPED_MODEL, device=named_device(device))


def named_device(device: str) -> torch.device:
    """The device that ``--device`` names.

    Raises:
        ValueError: there is none, saying what to do.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: no CUDA device is available; use --device cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device {device!r} is not a device; use auto, cpu or cuda") from error


def reconstruct_all(options: Options) -> int:
    """Reconstruct every picture; one that fails does not stop the others. Returns the exit code."""
    options.check()
    started = time.perf_counter()
    lrm = load_model(options.weights, options.device)
    print(f"model loaded in {time.perf_counter() - started:.1f} s")
    failed = []
    for path, folder in zip(options.images, folders(options), strict=True):
        try:
            print(reconstruct(lrm, path, folder, options).summary(), flush=True)
        except (ImageError, MeshError, CheckpointError, OSError) as error:
            failed.append(path)
            print(f"{path}: {error}", flush=True)
    if failed:
        print(
            f"{len(failed)} of {len(options.images)} pictures failed: {', '.join(map(str, failed))}"
        )
    return 1 if failed else 0


def folders(options: Options) -> list[Path]:
    """One folder per picture, named after it; equal names get a number, so nothing is lost."""
    taken: dict[str, int] = {}
    result = []
    for path in options.images:
        stem = path.stem or "picture"
        taken[stem] = taken.get(stem, 0) + 1
        name = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
        while name in taken and taken[stem] > 1:
            taken[stem] += 1
            name = f"{stem}-{taken[stem]}"
        taken.setdefault(name, 1)
        result.append(options.out / name)
    return result


@torch.no_grad()
def reconstruct(lrm: LRM, path: Path, folder: Path, options: Options) -> Report:
    """One picture file to a mesh and pictures in ``folder``.

    Raises:
        ImageError: the picture cannot be used.
        MeshError: the reconstruction has no surface; the pictures are written all the same.
    """
    report = Report(path, folder)
    device = next(lrm.parameters()).device
    with report.timing("encode"):
        image = prepare_input(load_image(path), lrm.config)
        planes = lrm.encode(image[None].to(device)).float()
    report.write("input.png", png_bytes(to_picture(image.permute(1, 2, 0))))

    with report.timing("pictures"):
        viewer = Viewer(lrm, planes)
        depth, normal = viewer.front(2 * options.size)
        report.write("depth.png", png_bytes(depth))
        report.write("normal.png", png_bytes(normal))
        cells = [("input", to_picture(image.permute(1, 2, 0)))]
        for degrees in SHEET_AZIMUTHS:
            picture = viewer.picture(math.radians(degrees), 0.0, options.size)
            cells.append((f"{degrees} degrees", picture))
        cells += [("depth", depth), ("normals", normal)]
        report.write("contact_sheet.png", png_bytes(contact_sheet(cells)))
    with report.timing("turntable"):
        report.write("turntable.gif", gif_bytes(viewer.turntable(options.frames, options.size)))

    with report.timing("mesh"):
        mesh = extract_mesh(
            lrm, planes, resolution=options.resolution, level=options.level, progress=True
        )
        report.write(f"mesh.{options.mesh}", mesh_bytes(mesh, options.mesh))
    return report
