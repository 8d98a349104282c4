"""From a class, a caption or a picture with depth to 3D scenes: what ``fastrecon generate`` does.

Class -> RGB-D (`RGBDDiffusion`) -> planes (`TriGen`) -> video, mesh and pictures.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .checkpoint import write_atomic
from .config.checks import resolve_device
from .data.rgbd import FULL, RGBD, RGBDError, read_depth, squared
from .errors import MeshError
from .export.mesh import extract_mesh, mesh_bytes
from .export.pictures import (
    Picture,
    contact_sheet,
    depth_picture,
    gif_bytes,
    png_bytes,
    to_picture,
)
from .export.scene_video import render_frames, video_pictures
from .export.video import mp4_bytes
from .generate_cli import Options
from .images import load_image
from .models.super_resolution import Upscaler, load_upscaler
from .models.trigen import TriGen
from .reconstruct import Report
from .scene_cameras import scene_c2w, video_c2w

CHUNK = 8
"""Pictures that are sampled at a time."""
SAME_SHAPE = 0.02
"""How far the sides' ratios of a picture and its depth may be apart."""
SHEET_FRAMES = 4
"""Of the video, on the contact sheet."""


@dataclass(frozen=True)
class Seen:
    """One picture with depth that a scene is made of."""

    name: str
    image: Tensor  # (3, S, S) in [0, 1]
    depth: Tensor  # (1, S, S) in [0, 1], 0 near
    about: dict[str, Any]
    """Where it came from."""


def generate(options: Options) -> int:
    """Make every scene; one without a surface does not stop the others. Returns the exit code.

    Raises:
        CheckpointError, RGBDError, ImageError, ImportError, ValueError: nothing can be made;
            the message says what to do.
    """
    options.check()
    try:
        device = resolve_device(options.device)
    except ValueError as error:
        raise ValueError(
            f"--device {options.device!r} is not here ({error}); use auto or cpu"
        ) from error
    trigen = TriGen.from_pretrained(options.trigen, device=device)
    upscaler = load_upscaler(options.super_resolution, device)
    failed = 0
    for seen in pictures(options, trigen.config.size, device):
        report = Report(Path(seen.name), options.out / seen.name)
        try:
            write_scene(trigen, seen, options, upscaler, report)
        except MeshError as error:
            failed += 1
            print(f"{seen.name}: {error}", flush=True)
        print(report.summary(), flush=True)
    if failed:
        print(f"{failed} scenes have no mesh; their pictures and videos are written")
    return 1 if failed else 0


def pictures(options: Options, size: int, device: torch.device) -> Iterator[Seen]:
    """What scenes are to be made of: one picture from files, or samples of the diffusion.

    Args:
        size: side of a picture from files.
    """
    if options.image is not None and options.depth is not None:
        image, depth = read_pair(options.image, options.depth, size)
        about = {"image": str(options.image), "depth": str(options.depth)}
        yield Seen(options.image.stem or "picture", image, depth, about)
        return
    from .models.rgbd import RGBDDiffusion
    from .models.rgbd.text import caption

    model = RGBDDiffusion.from_pretrained(options.diffusion, device=device)
    by_text = model.text is not None
    if options.caption and not by_text:
        raise ValueError(
            "these weights know classes, not captions; give --class, one of "
            f"{', '.join(model.classes[:5])}{', ...' if len(model.classes) > 5 else ''}"
        )
    label: int | str = options.caption
    if options.class_name:
        # text takes any class; numbers are only for those that it was trained with
        label = caption(options.class_name) if by_text else model.label(options.class_name)
    guidance = model.config.guidance if options.guidance is None else options.guidance
    steps = model.config.sampling_steps if options.steps is None else options.steps
    about = {
        "diffusion": options.diffusion,
        "label": options.class_name or options.caption,
        "seed": options.seed,
        "guidance": guidance,
        "steps": steps,
    }
    generator = torch.Generator().manual_seed(options.seed)
    stem = file_name(options.class_name or options.caption)
    for start in range(0, options.n, CHUNK):
        count = min(CHUNK, options.n - start)
        made = model.sample([label], count, guidance, steps, generator)
        for k in range(count):
            index = start + k
            yield Seen(
                f"{stem}-{index:03d}",
                made.images[k].float().cpu(),
                made.depth[k].float().cpu(),
                about | {"index": index},
            )


def read_pair(image: Path, depth: Path, size: int) -> tuple[Tensor, Tensor]:
    """The middle square of a picture and of its depth, (3, size, size) and (1, size, size).

    Raises:
        ImageError, RGBDError: one cannot be read, or they are not of one shape.
    """
    rgba = torch.from_numpy(load_image(image)).permute(2, 0, 1)
    colours = rgba[:3] * rgba[3:] + (1.0 - rgba[3:])
    known = read_depth(depth)
    ratios = [x.shape[2] / x.shape[1] for x in (colours, known)]
    if abs(math.log(ratios[0] / ratios[1])) > SAME_SHAPE:
        raise RGBDError(
            f"{image} is {colours.shape[2]} x {colours.shape[1]} but {depth} is {known.shape[2]} x "
            f"{known.shape[1]}; a depth must be of the whole picture, make it again"
        )
    if known.shape[1:] != colours.shape[1:]:
        known = F.interpolate(
            known[None], colours.shape[1:], mode="bilinear", align_corners=False, antialias=True
        )[0]
    return squared(RGBD(colours, known, 0, image.stem), size)


def file_name(words: str) -> str:
    """Words as the name of a folder."""
    return re.sub(r"[^\w.-]+", "_", words).strip("._-")[:60] or "scene"


@torch.no_grad()
def write_scene(
    model: TriGen, seen: Seen, options: Options, upscaler: Upscaler | None, report: Report
) -> None:
    """Write one scene's files.

    Raises:
        MeshError: the scene has no surface; everything else is written.
    """
    report.write("image.png", png_bytes(to_picture(seen.image.movedim(0, -1))))
    report.write("depth.png", depth_bytes(seen.depth))
    report.write(
        "scene.json", json.dumps(seen.about | {"trigen": options.trigen}, indent=1).encode()
    )
    camera = model.config.camera
    with report.timing("pictures"):
        front = scene_c2w(0.0, 0.0, camera.radius)[None]
        canonical = render_frames(model, seen.image, seen.depth, front)
        cells = [
            ("input", to_picture(seen.image.movedim(0, -1))),
            ("its depth", depth_picture(seen.depth[0], torch.ones_like(seen.depth[0]))),
            ("scene", video_pictures(canonical.pictures, upscaler)[0]),
            ("its depth", depth_picture(canonical.distance[0], canonical.opacity[0])),
        ]
    with report.timing("video"):
        c2w = video_c2w(options.frames, *camera.video, camera.radius)
        rendered = render_frames(model, seen.image, seen.depth, c2w).pictures
        frames = video_pictures(rendered, upscaler)
        _write_video(frames, options, report)
    shown = min(SHEET_FRAMES, len(frames))
    for frame in (k * len(frames) // shown for k in range(shown)):
        cells.append((f"frame {frame}", frames[frame]))
    report.write("contact_sheet.png", png_bytes(contact_sheet(cells, columns=SHEET_FRAMES)))
    with report.timing("mesh"):
        device = next(model.parameters()).device
        planes = model.encode(seen.image[None].to(device), seen.depth[None].to(device)).float()
        mesh = extract_mesh(
            model,
            model.pyramid(planes),
            resolution=options.resolution,
            level=options.level,
            progress=True,
        )
        report.write(f"mesh.{options.mesh}", mesh_bytes(mesh, options.mesh))


def _write_video(frames: list[Picture], options: Options, report: Report) -> None:
    if options.video == "png":
        for k, frame in enumerate(frames):
            write_atomic(report.folder / "frames" / f"{k:04d}.png", png_bytes(frame))
        report.files.append(report.folder / "frames")
        return
    write = gif_bytes if options.video == "gif" else mp4_bytes
    report.write(f"turntable.{options.video}", write(frames))


def depth_bytes(depth: Tensor) -> bytes:
    """Depth ``(1, H, W)`` in [0, 1] as a 16-bit PNG, as `fastrecon.data.rgbd.read_depth` reads."""
    values = (depth[0].clamp(0.0, 1.0) * FULL).round().cpu().numpy().astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()
