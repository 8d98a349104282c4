"""Depth maps from files: 16-bit (or 8-bit) grey PNG, or NumPy's .npy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .coco import CurationError
from .occlusion import Depth, DepthKind

ENDINGS = (".npy", ".png")
SHAPE_SLACK = 0.02
"""How far the proportions of a depth map may be from its picture's: networks round sides."""


def load_depth(folder: Path, name: str, size: tuple[int, int], kind: DepthKind) -> Depth:
    """The depth of the picture ``name`` (path with /), ``size`` (H, W), in the file's own values.

    A map at another resolution is read at the nearest pixels.

    Raises:
        CurationError: no file, damaged, of other proportions, or without any depth in it.
    """
    stem = folder / Path(name).with_suffix("")
    path = next((p for e in ENDINGS if (p := stem.with_name(stem.name + e)).is_file()), None)
    if path is None:
        raise CurationError(f"no depth map {stem}.npy or {stem.name}.png")
    try:
        depth = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _grey(path)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise CurationError(f"{path} is no depth map or damaged ({error})") from error
    if depth.dtype.kind not in "fiu" or depth.squeeze().ndim != 2:
        raise CurationError(f"{path} must hold numbers (H, W), got {depth.dtype} {depth.shape}")
    depth = depth.squeeze()
    _look(depth, kind, path)
    if depth.shape == size:
        return depth
    height, width = depth.shape
    if abs(height * size[1] / (width * size[0]) - 1) > SHAPE_SLACK:
        raise CurationError(
            f"{path} is {width} x {height}, its picture {size[1]} x {size[0]}: other proportions"
        )
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.intp)
    return depth[rows[:, None], columns]


def _grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
            raise ValueError(
                f"a picture of mode {image.mode}; save the values themselves, not colours"
            )
        return np.asarray(image)


def _look(depth: Depth, kind: DepthKind, path: Path) -> None:
    """Refuse maps that say nothing; single bad pixels are left to the occlusion test."""
    if depth.dtype.kind == "f":
        depth = np.where(np.isfinite(depth), depth, 0)
    largest = depth.max(initial=0)
    if not largest > 0:
        raise CurationError(f"{path} has no depth in it: no finite positive value")
    same = depth == largest
    if kind == "metric":
        same |= depth <= 0  # a distance of 0 is none
    if same.all():
        raise CurationError(f"{path} is constant ({largest:g}), so it orders nothing")
