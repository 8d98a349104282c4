"""Depth maps from files: 16-bit (or 8-bit) grey PNG, or NumPy's .npy or .npz."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
from numpy.lib.npyio import NpzFile
from PIL import Image

from .coco import CurationError
from .files import File, ending, stream
from .occlusion import Depth, DepthKind

ENDINGS = (".npy", ".npz", ".png")
SHAPE_SLACK = 0.02
"""How far the proportions of a depth map may be from its picture's: networks round sides."""


def load_depth(folder: Path, name: str, size: tuple[int, int], kind: DepthKind) -> Depth:
    """The depth of the picture ``name`` (path with /), as `read_depth` gives it.

    Raises:
        CurationError: no file, or what `read_depth` raises.
    """
    stem = folder / Path(name).with_suffix("")
    path = next((p for e in ENDINGS if (p := stem.with_name(stem.name + e)).is_file()), None)
    if path is None:
        raise CurationError(f"no depth map {stem}.npy, .npz or .png")
    return read_depth(path, size, kind)


def read_depth(file: File, size: tuple[int, int], kind: DepthKind) -> Depth:
    """The depth of a picture of ``size`` (H, W), in the file's own values.

    A map at another resolution is read at the nearest pixels.

    Raises:
        CurationError: damaged, of other proportions, or without any depth in it.
    """
    try:
        depth = _grey(file) if ending(file) == ".png" else _array(file)
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        BadZipFile,
        ZlibError,
        Image.DecompressionBombError,
    ) as error:
        raise CurationError(f"{file} is no depth map or damaged ({error})") from error
    if depth.dtype.kind not in "fiu" or depth.squeeze().ndim != 2:
        raise CurationError(f"{file} must hold numbers (H, W), got {depth.dtype} {depth.shape}")
    depth = depth.squeeze()
    _look(depth, kind, file)
    if depth.shape == size:
        return depth
    height, width = depth.shape
    if abs(height * size[1] / (width * size[0]) - 1) > SHAPE_SLACK:
        raise CurationError(
            f"{file} is {width} x {height}, its picture {size[1]} x {size[0]}: other proportions"
        )
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.intp)
    return depth[rows[:, None], columns]


def _array(file: File) -> np.ndarray:
    found = np.load(stream(file), allow_pickle=False)
    if not isinstance(found, NpzFile):
        return found
    with found:
        if "depth" not in found.files and len(found.files) != 1:
            raise ValueError(f"it holds {found.files or 'nothing'}; name the array 'depth'")
        return found["depth" if "depth" in found.files else found.files[0]]


def _grey(file: File) -> np.ndarray:
    with Image.open(stream(file)) as image:
        if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
            raise ValueError(
                f"a picture of mode {image.mode}; save the values themselves, not colours"
            )
        return np.asarray(image)


def _look(depth: Depth, kind: DepthKind, file: File) -> None:
    """Refuse maps that say nothing; single bad pixels are left to the occlusion test."""
    if depth.dtype.kind == "f":
        depth = np.where(np.isfinite(depth), depth, 0)
    largest = depth.max(initial=0)
    if not largest > 0:
        raise CurationError(f"{file} has no depth in it: no finite positive value")
    same = depth == largest
    if kind == "metric":
        same |= depth <= 0  # a distance of 0 is none
    if same.all():
        raise CurationError(f"{file} is constant ({largest:g}), so it orders nothing")
