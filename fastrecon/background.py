"""Cutting an object out of an opaque picture.

A plain background is recognised by the picture's border: its median colour, and how far the border
strays from it. What looks like the border *and* is connected to it becomes transparent, so that an
object may contain the background's colour. Any other background needs the extra ``background``
(rembg), whose network finds the salient object.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label
from skimage.morphology import dilation, disk

from .errors import ImageError

Pixels = NDArray[np.float32]

LEAST_SIDE = 8
"""Pixels; a smaller opaque picture has no border to speak of."""
RING = 0.02
"""Width of the border that is looked at, as a share of the shorter side."""
PLAIN = 0.08
"""A border is plain if nine tenths of it lie within this of the median, largest channel."""
EDGE = 0.10
"""Colour distance over which the matte goes from clear to opaque."""
SOFT_EDGE = 3
"""Pixels around the object within which the matte may be half transparent."""
OBJECT_SHARE = (0.001, 0.98)
"""A matte that keeps less or more of the picture than this is no cut-out."""


def remove_background(rgba: Pixels, name: str = "the picture") -> Pixels:
    """``(H, W, 4)`` opaque -> the same with the background made transparent.

    Raises:
        ImageError: no plain background and the extra is missing, or nothing was found.
    """
    found = cut_plain(rgba[..., :3])
    if found is None:
        found = _cut_salient(rgba[..., :3], name)
    share = float((found[..., 3] > 0.5).mean())
    if not OBJECT_SHARE[0] <= share <= OBJECT_SHARE[1]:
        raise ImageError(
            f"no object found in {name}: the cut-out keeps {share:.1%} of it; cut the object out "
            "yourself and save it as PNG with transparency"
        )
    return found


def cut_plain(rgb: Pixels) -> Pixels | None:
    """The object on a plain background as straight RGBA, or None if the border is not plain."""
    height, width = rgb.shape[:2]
    if min(height, width) < LEAST_SIDE:
        return None
    ring = max(1, round(RING * min(height, width)))
    border = np.ones((height, width), dtype=bool)
    border[ring:-ring, ring:-ring] = False
    plain = np.median(rgb[border], axis=0)
    distance = np.abs(rgb - plain).max(-1)
    spread = float(np.quantile(distance[border], 0.9))
    if spread > PLAIN:
        return None
    clear = max(0.02, 1.5 * spread)
    matte = ((distance - clear) / EDGE).clip(0, 1)
    # Only what hangs together with the border is background; holes in the object stay opaque.
    labels = _islands(matte < 1)
    outside = np.isin(labels, np.unique(labels[border & (matte < 1)]))
    alpha = np.where(outside, matte, 1).astype(np.float32)
    alpha = _drop_specks(alpha)
    # An edge pixel is a mixture of object and background; give back the object's own colour.
    safe = np.maximum(alpha, 0.05)[..., None]
    colour = ((rgb - (1 - alpha[..., None]) * plain) / safe).clip(0, 1)
    return np.concatenate([colour, alpha[..., None]], -1).astype(np.float32)


def _islands(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Connected (by edges) regions of the mask, numbered from 1; 0 elsewhere."""
    return label(mask, connectivity=1)  # type: ignore[return-value]


def _drop_specks(alpha: Pixels) -> Pixels:
    """Keep what touches an island of at least a hundredth of the largest: no noise, no dust."""
    labels = _islands(alpha > 0.5)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    islands = np.isin(labels, np.flatnonzero(sizes >= max(1, sizes.max() / 100)))
    near = dilation(islands, disk(SOFT_EDGE))
    return np.where(near, alpha, 0).astype(np.float32)


def _cut_salient(rgb: Pixels, name: str) -> Pixels:
    """The salient object as rembg's network sees it."""
    try:
        from rembg import remove  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImageError(
            f"{name} has no transparency and no plain background (or is too small to tell); cut "
            "the object out and save it as PNG with transparency, or let a network do it: "
            'pip install "fastrecon[background]"'
        ) from error
    cut = remove((rgb * 255).round().astype(np.uint8))
    return (np.asarray(cut) / 255).astype(np.float32)
