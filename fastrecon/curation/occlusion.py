"""Is an instance hidden in part by another one? Real3D, appendix B and Fig. 6.

Where two masks meet, one object owns the boundary: the nearer one. Points are drawn on the part of
an instance's boundary that is in contact with others; the depth a little inside is compared with
the depth a little outside; half the points on the far side make the object occluded.

Two readings of the printed text: contact is the overlap of the boundary with the *dilated*
boundaries of the others (the printed erosion of a 4 px band is always empty), and the ratio of
depths is one of *disparities* (nearer is larger), which is what the depth network gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .masks import Bool, Mask, dilate, erode

DepthKind = Literal["disparity", "metric"]
"""What a depth map holds: nearer is larger (in any unit, 0 is infinitely far), or distance."""
Depth = NDArray[np.floating]
Points = NDArray[np.intp]
NONE = np.zeros((0, 2), np.intp)


@dataclass(frozen=True)
class OcclusionSettings:
    """The constants of the test. The defaults are the paper's; see `DEFAULT` for ours."""

    boundary: int = 9
    """Side of the square whose erosion leaves the boundary band, pixels, odd."""
    contact: int = 15
    """Side of the square by which the other boundaries are dilated, pixels, odd."""
    points: int = 20
    """Drawn on the contact, with replacement."""
    offset: float = 0.05
    """Distance of the compared points from the boundary, as a share of the instance's scale."""
    ratio: float = 0.95
    """Occluded at a point if its disparity is less than this times the one outside."""
    votes: float = 0.5
    """Occluded as a whole if this share of the points is."""
    ambiguous: Literal["reject", "skip"] = "reject"
    """When both compared points lie inside the mask, or both outside: reject the instance, or
    leave the point out; with more than half of the points left out it is rejected as well."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        for name in ("boundary", "contact"):
            if (side := getattr(self, name)) < 3 or side % 2 == 0:
                raise ValueError(f"{name} must be an odd number of pixels from 3, got {side}")
        if self.points < 1:
            raise ValueError(f"points must be at least 1, got {self.points}")
        for name in ("offset", "ratio", "votes"):
            if not 0 < (share := getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {share}")


PAPER = OcclusionSettings()
DEFAULT = OcclusionSettings(points=100, votes=0.15, ambiguous="skip")
"""Chosen on made-up scenes with noisy 8-bit depth (`tests/curation/scenes.py`, other seeds than the
tests'). An object in front of one neighbour and behind another has few points behind: half the
votes miss it, 15% find it. Rejecting over a single ambiguous point of 100 would cost too many."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the test found, and the points that led to it (row, column of the picture)."""

    reason: str  # "" or why the instance is dropped, a key of `filters.REASONS`
    basis: str  # what an instance that is kept owes it to
    points: Points  # (N, 2) drawn on the contact
    inner: Points  # (N, 2)
    outer: Points  # (N, 2)
    behind: Bool  # (N,) the instance is behind its neighbour here


class Contacts:
    """The boundary bands of all instances of a picture, and where they are in contact."""

    def __init__(self, masks: Sequence[Mask], settings: OcclusionSettings) -> None:
        self.masks, self.settings = masks, settings
        self.bands = [m.inside & ~erode(m.inside, settings.boundary) for m in masks]
        shape = masks[0].shape if masks else (0, 0)
        self._count = np.zeros(shape, np.uint16)
        for mask, band in zip(masks, self.bands, strict=True):
            self._count[mask.window] += band

    def of(self, i: int) -> Bool:
        """``(h, w)`` in instance i's box: its band where it is close to the band of another."""
        mask, band = self.masks[i], self.bands[i]
        rows, columns = mask.grown(self.settings.contact // 2)
        height, width = band.shape
        y, x = mask.top - rows.start, mask.left - columns.start
        own = (slice(y, y + height), slice(x, x + width))
        others = self._count[rows, columns].copy()
        others[own] -= band
        others = others > 0
        if not others.any():
            return np.zeros_like(band)
        return band & dilate(others, self.settings.contact)[own]


def judge(
    contacts: Contacts,
    i: int,
    depth: Depth,
    kind: DepthKind,
    rng: np.random.Generator,
) -> Verdict:
    """Judge instance i.

    Args:
        contacts: of all instances of the picture.
        depth: ``(H, W)``, the picture's size. Points without a depth (not a number, negative,
            infinite disparity, zero distance) do not vote.
        kind: what ``depth`` holds.
        rng: draws the points.
    """
    mask, settings = contacts.masks[i], contacts.settings
    contact = contacts.of(i)
    if not contact.any():
        return _kept("no contact")
    candidates = np.argwhere(contact & ~erode(mask.inside, 3))
    if not len(candidates):
        return _kept("no contact")
    normals, steep = inward_normals(mask.inside, candidates)
    if not len(steep):
        return Verdict("no_normal", "", NONE, NONE, NONE, np.zeros(0, bool))
    drawn = rng.integers(len(steep), size=settings.points)
    normals = normals[drawn]
    points = candidates[steep[drawn]] + (mask.top, mask.left)
    step = settings.offset * mask.scale * normals
    limit = np.array(mask.shape) - 1
    first = np.rint(points + step).astype(np.intp).clip(0, limit)
    second = np.rint(points - step).astype(np.intp).clip(0, limit)
    # On a thin part the normal may point across and out; the one that is inside is the inner one.
    ahead, back = mask.contains(first), mask.contains(second)
    inner = np.where(ahead[:, None], first, second)
    outer = np.where(ahead[:, None], second, first)
    clear = ahead != back
    behind, known = _behind(depth[tuple(inner.T)], depth[tuple(outer.T)], kind, settings.ratio)
    behind &= clear
    reason = ""
    if (settings.ambiguous == "reject" and not clear.all()) or clear.mean() < 0.5:
        reason = "ambiguous"
    elif not (clear & known).any() or known[clear].mean() < 0.5:
        reason = "no_depth"
    elif behind.sum() >= settings.votes * (clear & known).sum():
        reason = "occluded"
    return Verdict(reason, "" if reason else "in front", points, inner, outer, behind)


def inward_normals(inside: Bool, points: Points) -> tuple[NDArray[np.float64], Points]:
    """Unit normals ``(M, 2)`` (row, column) from the mask's Sobel gradient, towards the inside.

    Args:
        inside: ``(h, w)`` mask, nothing beyond it.
        points: ``(N, 2)`` in it.

    Returns:
        The normals, and which M of the points have one (the others have no gradient).
    """
    padded = np.pad(inside, 1).astype(np.int8)
    y, x = points[:, 0], points[:, 1]
    p = {(a, b): padded[y + a, x + b] for a in range(3) for b in range(3) if (a, b) != (1, 1)}
    down = (p[2, 0] + 2 * p[2, 1] + p[2, 2]) - (p[0, 0] + 2 * p[0, 1] + p[0, 2])
    right = (p[0, 2] + 2 * p[1, 2] + p[2, 2]) - (p[0, 0] + 2 * p[1, 0] + p[2, 0])
    gradient = np.stack([down, right], 1).astype(np.float64)
    length = np.hypot(gradient[:, 0], gradient[:, 1])
    steep = np.flatnonzero(length)
    return gradient[steep] / length[steep, None], steep


def _behind(inner: Depth, outer: Depth, kind: DepthKind, ratio: float) -> tuple[Bool, Bool]:
    """Where the inner depth is behind the outer, and where both are known.

    Products instead of quotients: nothing is divided by a depth of 0.
    """
    inner, outer = inner.astype(np.float64), outer.astype(np.float64)
    if kind == "disparity":
        known = (inner >= 0) & (outer >= 0) & np.isfinite(inner) & np.isfinite(outer)
        return known & (inner < ratio * outer), known
    known = (inner > 0) & (outer > 0)
    return known & (outer < ratio * inner), known


def _kept(basis: str) -> Verdict:
    return Verdict("", basis, NONE, NONE, NONE, np.zeros(0, bool))
