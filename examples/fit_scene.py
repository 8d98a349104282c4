"""Fit planes and a small decoder to posed pictures with `fastrecon_kernels` alone.

The renderer in a NeRF program of one's own: one file, with torch, numpy and Pillow beside the
kernels and nothing of the package `fastrecon`. A scene is a pyramid of feature planes and an MLP,
ordinary torch parameters both; all that touches the renderer is in `Field`. Colours do not depend
on the viewing direction, so highlights that move with the camera are averaged.

    python examples/fit_scene.py DATA --out runs/scene

DATA is NeRF-synthetic's layout: ``transforms_train.json`` and ``transforms_test.json``, or one
``transforms.json`` of which every 8th view is held out. They hold ``camera_angle_x`` (radians) and
``frames`` with ``file_path`` (with or without ending) and ``transform_matrix`` (camera to world,
OpenGL axes: x right, y up, looking along -z). Pictures are RGBA; the object is around the origin
and z points up. To make such data from a mesh, with the whole package:

    fastrecon data render spot_triangulated.obj -o renders --layout nerf --cameras random \\
        --views 100 --elevations -30 80 --size 400
    python examples/fit_scene.py renders/spot_triangulated --out runs/spot

The defaults are for a GPU. Half a minute of a core: ``--downscale 8 --steps 500 --rays 512
--samples 16 --fine-samples 16 --resolution 32 --levels 2 --width 32 --skip-every 150``.

OUT gets ``metrics.json`` (loss curve, PSNR of every held-out view, conditions), ``views.png``
(truth | ours | depth), ``turntable.gif`` (and ``.mp4`` where imageio-ffmpeg is installed),
``points.ply`` (a coloured point cloud) and ``field.pt``. Ctrl-C ends the fitting; they are written
all the same. ``--backend reference`` runs the same samples through plain PyTorch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

# so that a clone runs without being installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))

from fastrecon_kernels import (
    Decoder,
    Rendering,
    RenderSettings,
    build_occupancy,
    query_points,
    render_rays,
    sample_rays,
)

ENDINGS = ("", ".png", ".webp")
LAST_RATE = 0.05
"""Share of the learning rates that is left at the end."""


class Views(NamedTuple):
    """V posed pictures of one size."""

    rgba: Tensor  # (V, H, W, 4) uint8, straight alpha
    c2w: Tensor  # (V, 3, 4) camera to world, OpenGL axes
    focal: Tensor  # (V,) pixels

    def rays(self, view: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """rays_o, rays_d (N, 3) through the centres of N pixels; unit directions."""
        height, width = self.rgba.shape[1:3]
        c2w, focal = self.c2w[view], self.focal[view]
        right, up = (x + 0.5 - width / 2) / focal, (height / 2 - y - 0.5) / focal
        towards = torch.stack([right, up, -torch.ones_like(up)], -1)
        rays_d = (c2w[:, :, :3] @ towards[:, :, None])[:, :, 0]
        return c2w[:, :, 3], nn.functional.normalize(rays_d, dim=-1)


class Field(nn.Module):
    """A scene: planes, each level of half the resolution, and the decoder that reads their sum."""

    def __init__(self, args: argparse.Namespace, radius: float) -> None:
        super().__init__()
        sides = [args.resolution >> level for level in range(args.levels)]
        if sides[-1] < 2:
            raise ValueError(
                f"--levels {args.levels} of --resolution {args.resolution} end in nothing"
            )
        self.planes = nn.ParameterList(
            0.1 * torch.randn(1, 3, args.channels, side, side) for side in sides
        )
        widths = [3 * args.channels] + [args.width] * args.layers  # three planes, concatenated
        layers = [f for pair in pairwise(widths) for f in (nn.Linear(*pair), nn.SiLU())]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], 4))  # raw density, three colours
        self.settings = RenderSettings(
            radius=radius,
            n_samples=args.samples,
            n_importance=args.fine_samples,
            quadrature="midpoint" if args.fine_samples else "bins",
            density_scale=1 / radius,  # the same start whatever the scene's units
            background="black",  # nothing behind; `on_background` adds a colour
        )
        self.options: dict[str, Any] = {"backend": args.backend, "precision": args.precision}
        self.occupancy: Tensor | None = None

    def parts(self) -> tuple[list[Tensor], Decoder]:
        """What the operators read: the very parameters, so gradients reach them."""
        return list(self.planes), Decoder.from_mlp(self.mlp)

    def forward(self, rays_o: Tensor, rays_d: Tensor, seed: int | None = None) -> Rendering:
        """Render rays (N, 3). With a seed samples are jittered, the same way in every backend."""
        settings = replace(self.settings, stratified=seed is not None)
        options = {"occupancy": self.occupancy, "seed": seed, **self.options}
        out = render_rays(*self.parts(), rays_o[None], rays_d[None], settings, **options)
        return Rendering(out.rgb[0], out.opacity[0], out.depth[0])  # of the batch's one scene

    def find_empty(self, resolution: int) -> None:
        """Let the renderer skip what is empty by now; such cells get no more gradient."""
        threshold = 0.01 * self.settings.density_scale
        self.occupancy = build_occupancy(
            *self.parts(), self.settings, resolution=resolution, threshold=threshold
        )

    @torch.no_grad()
    def picture(self, views: Views, view: int) -> Rendering:
        """All pixels of one view: rgb (H, W, 3) on white, opacity and depth (H, W)."""
        height, width = views.rgba.shape[1:3]
        pixels = torch.arange(height * width, device=views.c2w.device)
        chunks = []  # the kernels need none: they bound the memory of the reference
        for p in pixels.split(1 << 14):
            out = self(*views.rays(torch.full_like(p, view), p // width, p % width))
            chunks.append((on_background(out, 1.0), out.opacity, out.depth))
        rgb, opacity, depth = (
            torch.cat(x).unflatten(0, (height, width)) for x in zip(*chunks, strict=True)
        )
        return Rendering(rgb, opacity, depth)


def on_background(out: Rendering, colour: Tensor | float) -> Tensor:
    """A rendering on black with a colour behind it; gradients flow through opacity as well."""
    return out.rgb + (1 - out.opacity[..., None]) * colour


def psnr(mean_square: float) -> float:
    """In dB, of colours in [0, 1]."""
    return -10 * math.log10(max(mean_square, 1e-10))


def fit(field: Field, views: Views, args: argparse.Namespace, log: dict[str, Any]) -> None:
    """Adam on random pixels of all views, until steps or time are over, or Ctrl-C."""
    rates = [(field.planes, args.lr_planes), (field.mlp, args.lr_decoder)]
    optimiser = torch.optim.Adam(
        [{"params": list(part.parameters()), "lr": rate} for part, rate in rates],
        betas=(0.9, 0.99),
        eps=1e-15,  # most texels have tiny gradients
    )
    device, start, done = views.c2w.device, time.perf_counter(), 0.0
    sizes = views.rgba.shape[:3]
    squares = torch.zeros((), device=device)
    try:
        while done < 1:
            for group, (_, rate) in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * LAST_RATE**done
            view, y, x = (torch.randint(n, (args.rays,), device=device) for n in sizes)
            rgb, alpha = (views.rgba[view, y, x] / 255).split([3, 1], dim=-1)
            # A random colour behind every ray: empty space cannot pass as white matter.
            colour = 1.0 if args.opaque else torch.rand(args.rays, 3, device=device)
            out = field(*views.rays(view, y, x), seed=log["steps"])
            truth = rgb * alpha + colour * (1 - alpha)
            loss = (on_background(out, colour) - truth).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            squares += loss.detach()
            log["steps"] += 1
            log["seconds"] = time.perf_counter() - start
            done = max(log["steps"] / args.steps, log["seconds"] / args.time_limit)
            if args.skip_every and log["steps"] % args.skip_every == 0:
                field.find_empty(args.resolution // 2)
            if log["steps"] % args.log_every == 0:
                mean = squares.item() / args.log_every  # waits for the GPU
                squares.zero_()
                log["curve"].append({k: log[k] for k in ("steps", "seconds")} | {"loss": mean})
                print(f"step {log['steps']:6}  {log['seconds']:7.1f} s  {psnr(mean):6.2f} dB")
    except KeyboardInterrupt:
        log["interrupted"] = True
        print("stopped; writing what there is")
    squares.item()  # what the GPU has yet to do counts as well
    log["seconds"] = time.perf_counter() - start


# Results -----------------------------------------------------------------------------------------


def evaluate(field: Field, views: Views, path: Path) -> list[float]:
    """PSNR of every view on white; the first four go to a picture: truth | ours | depth."""
    measured, rows = [], []
    for k, rgba in enumerate(views.rgba / 255):
        out = field.picture(views, k)
        truth = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
        measured.append(psnr((out.rgb - truth).square().mean().item()))
        hit = out.opacity > 0.5
        near, far = out.depth[hit].aminmax() if hit.any() else (0.0, 1.0)
        grey = torch.where(hit, 0.9 - 0.8 * (out.depth - near) / (far - near + 1e-6), 1.0)
        rows.append(torch.cat([truth, out.rgb, grey[..., None].expand_as(truth)], dim=1))
    Image.fromarray(to_bytes(torch.cat(rows[:4]))).save(path)
    return measured


def turntable(field: Field, views: Views, frames: int, path: Path) -> None:
    """The camera of median height on a turn around the upright axis."""
    heights = views.c2w[:, 2, 3]
    k = heights.argsort()[len(heights) // 2]
    pictures = []
    for angle in torch.linspace(0, 2 * math.pi, frames + 1)[:-1].tolist():
        c, s = math.cos(angle), math.sin(angle)
        turn = views.c2w.new_tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        camera = Views(views.rgba[:1], (turn @ views.c2w[k])[None], views.focal[k][None])
        rgb = field.picture(camera, 0).rgb
        pictures.append(to_bytes(rgb[: len(rgb) // 2 * 2, : rgb.shape[1] // 2 * 2]))  # for MP4
    first, *others = (Image.fromarray(picture) for picture in pictures)
    first.save(path.with_suffix(".gif"), save_all=True, append_images=others, duration=80, loop=0)
    if importlib.util.find_spec("imageio_ffmpeg"):
        from imageio.v2 import mimwrite

        mimwrite(path.with_suffix(".mp4"), pictures, fps=12, macro_block_size=2)


@torch.no_grad()
def save_points(field: Field, path: Path) -> None:
    """Where the field is dense, as PLY, which MeshLab and Blender open."""
    radius, resolution = field.settings.radius, field.planes[0].shape[-1]
    axis = torch.linspace(-radius, radius, resolution, device=field.planes[0].device)
    points = torch.cartesian_prod(axis, axis, axis)[None]
    sigmas, rgbs = query_points(*field.parts(), points, field.settings, **field.options)
    dense = sigmas > 10 / radius  # two thirds of the light stay in a tenth of the radius
    rows = np.concatenate([points[dense].cpu().numpy(), to_bytes(rgbs[dense])], axis=1)
    head = ["ply", "format ascii 1.0", f"element vertex {len(rows)}"]
    head += [f"property float {axis}" for axis in "xyz"]
    head += [f"property uchar {colour}" for colour in ("red", "green", "blue")] + ["end_header"]
    np.savetxt(path, rows, "%.5g %.5g %.5g %d %d %d", header="\n".join(head), comments="")


def to_bytes(rgb: Tensor) -> np.ndarray:
    return rgb.clamp(0, 1).mul(255).round().byte().cpu().numpy()


# Posed pictures ----------------------------------------------------------------------------------


def load_data(args: argparse.Namespace) -> tuple[Views, Views]:
    """Views to fit and views held out; ValueError says what is wrong and what to do."""
    fitted, *others = (args.data / f"transforms_{part}.json" for part in ("train", "test", "val"))
    if not fitted.is_file():
        fitted, others = args.data / "transforms.json", []
    if not fitted.is_file():
        raise ValueError(
            f"{args.data} has neither transforms_train.json nor transforms.json; name a folder in "
            "NeRF-synthetic's layout, or make one of a mesh with `fastrecon data render`"
        )
    views = load_views(fitted, args)
    for path in others:
        if path.is_file():
            return views, load_views(path, args)
    held_out = torch.arange(len(views.c2w)) % args.hold_out == args.hold_out // 2
    if not held_out.any() or held_out.all():
        raise ValueError(
            f"--hold-out {args.hold_out} of the {len(held_out)} views in {fitted} leaves none to "
            "measure or none to fit; choose another number, or add a transforms_test.json"
        )
    return Views(*(x[~held_out] for x in views)), Views(*(x[held_out] for x in views))


def load_views(path: Path, args: argparse.Namespace) -> Views:
    try:
        said = json.loads(path.read_text())
        frames = said["frames"]
        files = [str(frame["file_path"]) for frame in frames]
        c2w = np.array([frame["transform_matrix"] for frame in frames], np.float64)
        angles = [
            float(frame.get("camera_angle_x", said.get("camera_angle_x"))) for frame in frames
        ]
        if c2w.shape[1:] != (4, 4):
            raise ValueError(f"its matrices are {c2w.shape}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be used ({type(error).__name__}: {error}); it must be JSON with frames "
            "that have file_path and a 4 x 4 transform_matrix, and with camera_angle_x, radians: 2 "
            "atan(width / (2 focal))"
        ) from error
    pictures: list[np.ndarray] = []
    for file, pose, angle in zip(files, c2w, angles, strict=True):
        if not np.isfinite(pose).all() or abs(np.linalg.det(pose)) < 1e-9 or not 0 < angle < 3.14:
            raise ValueError(f"{path}: {file} has no usable camera; repair or remove the frame")
        pictures.append(load_picture(path.parent / file, args))
        (height, width), size = pictures[0].shape[:2], pictures[-1].shape[:2]
        if size != (height, width):
            raise ValueError(
                f"{path}: {file} is {size[1]} x {size[0]} px, {files[0]} is {width} x {height}; "
                "bring all pictures to one size"
            )
    focal = [pictures[0].shape[1] / 2 / math.tan(angle / 2) for angle in angles]
    poses = torch.from_numpy(c2w[:, :3]).float()
    return Views(torch.from_numpy(np.stack(pictures)), poses, torch.tensor(focal))


def load_picture(path: Path, args: argparse.Namespace) -> np.ndarray:
    found = [file for file in (Path(f"{path}{end}") for end in ENDINGS) if file.is_file()]
    if not found:
        raise ValueError(
            f"{path} does not exist, nor with {' or '.join(ENDINGS[1:])}; put the picture there or "
            "correct its file_path"
        )
    try:
        with Image.open(found[0]) as image:
            picture = np.array(image.convert("RGBA").reduce(args.downscale))
    except OSError as error:
        raise ValueError(f"{found[0]} is damaged ({error}); make or fetch it again") from error
    if not args.opaque and (picture[..., 3] == 255).all():
        raise ValueError(
            f"{found[0]} has no alpha (or no background); cut the object out (rembg does), or pass "
            "--opaque if it stands on white"
        )
    return picture


def choose_radius(views: Views, args: argparse.Namespace) -> float:
    """Half side of the cube to render: what the pictures show at the origin, unless it is given."""
    shown = max(views.rgba.shape[1:3]) / 2 / views.focal * views.c2w[:, :, 3].norm(dim=-1)
    radius = args.radius or shown.median().item()
    view, y, x = (views.rgba[..., 3] > 127).nonzero()[:: len(views.rgba)].unbind(-1)
    ts, _ = sample_rays(*views.rays(view, y, x), RenderSettings(radius=radius, n_samples=1))
    missed = (ts == 0).float().mean().item()
    if missed > 0.1 and not args.opaque:
        raise ValueError(
            f"{missed:.0%} of the object's pixels look past the cube of half side {radius:.3g} "
            "around the origin; move the poses so that the object is there, or raise --radius"
        )
    return radius


# Command line ------------------------------------------------------------------------------------


def count(text: str) -> int:
    """An integer from 1, as argparse wants it said."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def parse(argv: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description="Fit planes and a decoder to posed pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("data", type=Path, help="folder with transforms_train.json or transforms.json")
    add("--out", type=Path, default=Path("runs/scene"), help="folder to write to")
    add("--steps", type=count, default=3000, help="of Adam")
    add("--time-limit", type=float, default=math.inf, help="seconds of fitting")
    add("--rays", type=count, default=4096, help="per step")
    add("--samples", type=count, default=48, help="per ray, evenly")
    add("--fine-samples", type=int, default=48, help="per ray, where the first saw something; or 0")
    add("--resolution", type=count, default=128, help="texels along a side of the finest planes")
    add("--levels", type=count, default=3, help="of planes, each of half the resolution")
    add("--channels", type=count, default=16, help="of the planes")
    add("--width", type=count, default=64, help="of the decoder")
    add("--layers", type=int, default=2, help="hidden, of the decoder")
    add("--lr-planes", type=float, default=0.03, help="falls to a twentieth")
    add("--lr-decoder", type=float, default=0.005, help="falls to a twentieth")
    add("--skip-every", type=int, default=500, help="steps between searches for empty space, or 0")
    add("--radius", type=float, help="half side of the cube to render; else from the cameras")
    add("--hold-out", type=count, default=8, help="every k-th view where no file says test views")
    add("--downscale", type=count, default=1, help="pixels that become one, along a side")
    add("--opaque", action="store_true", help="pictures without alpha, on white")
    add("--frames", type=int, default=36, help="of the turntable, or 0")
    add("--device", default="auto", help="cuda, cpu, ...")
    add("--backend", default="auto", choices=("auto", "triton", "reference"), help="kernels")
    add("--precision", default="auto", choices=("auto", "bf16", "tf32", "fp32"), help="of products")
    add("--log-every", type=count, default=100, help="steps")
    add("--seed", type=int, default=0, help="of everything random")
    return parser, parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, measure, draw; 130 after Ctrl-C."""
    parser, args = parse(argv)
    cuda = torch.cuda.is_available() if args.device == "auto" else args.device.startswith("cuda")
    device = torch.device(args.device if args.device != "auto" else "cuda" if cuda else "cpu")
    torch.manual_seed(args.seed)
    try:
        sets = load_data(args)
        field = Field(args, choose_radius(sets[0], args)).to(device)
    except ValueError as error:
        parser.error(str(error))
    train, test = (Views(*(x.to(device) for x in views)) for views in sets)
    log: dict[str, Any] = {"steps": 0, "seconds": 0.0, "interrupted": False, "curve": []}
    args.out.mkdir(parents=True, exist_ok=True)  # fail now, not after the fitting
    fit(field, train, args, log)
    torch.save(field.state_dict(), args.out / "field.pt")
    psnrs = evaluate(field, test, args.out / "views.png")
    there = importlib.util.find_spec("triton")
    triton = importlib.import_module("triton").__version__ if there else None
    log |= {
        "psnr": psnrs,
        "mean_psnr": float(np.mean(psnrs)),
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton,
        "views": [train.rgba.shape[:3], test.rgba.shape[:3]],
        "radius": field.settings.radius,
        "options": {name: str(value) for name, value in vars(args).items()},
    }
    (args.out / "metrics.json").write_text(json.dumps(log, indent=1))
    print(
        f"{log['mean_psnr']:.2f} dB (from {min(psnrs):.2f} to {max(psnrs):.2f}) on "
        f"{list(test.rgba.shape[:3])} held-out views x height x width, {len(train.rgba)} fitted; "
        f"{log['steps']} steps, {log['seconds']:.1f} s on {log['device']}, backend {args.backend}"
    )
    save_points(field, args.out / "points.ply")
    if args.frames > 0:
        turntable(field, train, args.frames, args.out / "turntable")
    return 130 if log["interrupted"] else 0


if __name__ == "__main__":
    sys.exit(main())
