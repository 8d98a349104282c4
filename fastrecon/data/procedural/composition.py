"""Which solids an object has, how large, and where: parts that touch each other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .arrays import single
from .draws import TURN, Draws
from .field import ABSENT, CARVE, COMMON, JOIN, MIRROR, NO_FOLD, Parts
from .solids import SOLIDS

Array = NDArray[Any]
SYMMETRY_SHARES = (0.5, 0.35, 0.05, 0.05, 0.025, 0.025)
"""None, mirror, and 2, 3, 4, 5 mirror planes around the axis."""
TURN_SHARES = (0.3, 0.35, 0.35)
"""Parts stand upright, lie (their axis horizontal), or point anywhere."""
CARVE_SHARE, COMMON_SHARE = 0.15, 0.03
FILLET_SHARE = 0.35
REACHES = (0.95, 0.8, 0.6, 0.4, 0.2)
"""Where along the way from a part's middle to its box's ellipsoid another part may touch it."""
ROUND = np.array([solid.round for solid in SOLIDS])
RING = np.array([solid.ring for solid in SOLIDS])


class Composition(NamedTuple):
    """Objects' shapes, on the processor."""

    parts: Parts
    low: Tensor  # (B, 3) corners of boxes that hold the objects
    high: Tensor  # (B, 3)
    n_parts: Array  # (B,) int


def compose(whole: Draws, draws: Draws) -> Composition:
    """Shapes from the random numbers of the objects (B, n) and of their parts (B, P, m)."""
    n_slots = draws.table.shape[1]
    slot = np.arange(n_slots)
    # Few parts are likelier than many: most things have a body and some attachments.
    n_parts = 1 + np.floor(whole.one() ** 1.3 * n_slots).astype(np.int64)
    folds = whole.choice(SYMMETRY_SHARES)
    folds = np.array([NO_FOLD, MIRROR, 2, 3, 4, 5])[folds]
    present = slot < n_parts[:, None]
    kinds = np.floor(draws.one() * len(SOLIDS)).astype(np.int64)
    traits = draws.take(2)
    halves = _sizes(draws, kinds)
    axes = _axes(draws)
    ways = _ways(draws, kinds, present)
    # What carves is smaller than what it carves, so that something is left.
    halves = np.where((ways == CARVE)[..., None], 0.6 * halves, halves)
    halves = np.where((ways == COMMON)[..., None], 1.6 * halves, halves)
    sharp = draws.one() > FILLET_SHARE
    fillets = np.where(sharp, 0.0, draws.one(0.05, 0.3))
    fillets[:, 0] = 0.0
    centres = _centres(draws, kinds, axes, halves, ways, folds)
    kinds = np.where(present, kinds, ABSENT)
    low, high = _box(kinds, ways, axes, halves, centres, fillets, folds)
    parts = Parts(
        torch.from_numpy(kinds),
        torch.from_numpy(ways),
        single(fillets),
        single(axes),
        single(centres),
        single(halves),
        single(traits),
        torch.from_numpy(folds),
    )
    return Composition(parts, single(low), single(high), n_parts)


def _sizes(draws: Draws, kinds: Array) -> Array:
    """Half sizes (B, P, 3); the first part is the body."""
    overall = draws.one(0.3, 0.8)
    overall[:, 0] = 1.0
    halves = overall[..., None] * np.exp(draws.take(3, -0.8, 0.3))
    halves[..., 1] = np.where(ROUND[kinds], halves[..., 0], halves[..., 1])
    return halves


def _axes(draws: Draws) -> Array:
    """Rows (B, P, 3, 3): the parts' axes in the object's frame."""
    how, angle, free = draws.choice(TURN_SHARES), draws.one(0.0, TURN), draws.rotations()
    # Things are more often aligned with each other than not.
    angle = np.where(draws.one() < 0.5, np.round(angle / TURN * 4) / 4 * TURN, angle)
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(angle.shape)
    upright = np.stack([cos, sin, zero, -sin, cos, zero, zero, zero, zero + 1.0], axis=-1)
    lying = np.stack([zero, zero, zero + 1.0, -sin, cos, zero, -cos, -sin, zero], axis=-1)
    shape = (*angle.shape, 3, 3)
    upright, lying, which = upright.reshape(shape), lying.reshape(shape), how[..., None, None]
    return np.where(which == 0, upright, np.where(which == 1, lying, free))


def _ways(draws: Draws, kinds: Array, present: Array) -> Array:
    u = draws.one()
    ways = np.where(u < CARVE_SHARE, CARVE, np.where(u > 1.0 - COMMON_SHARE, COMMON, JOIN))
    # Rings and wires have nothing to give: they neither carve nor are they carved at the start.
    hollow = RING[kinds] | RING[kinds[:, :1]]
    ways = np.where((ways == COMMON) & hollow, JOIN, ways)
    ways = np.where((ways == CARVE) & RING[kinds], JOIN, ways)
    ways[:, 0] = JOIN
    return np.where(present, ways, JOIN)


def _touch(kinds: Array, halves: Array, direction: Array, reach: Array) -> Array:
    """Points inside parts, toward a direction (..., 3) of their own frames.

    In solid parts at ``reach`` of the way to the box's ellipsoid; in rings at their rim.
    """
    inner = reach[..., None] * direction * halves
    flat = direction * np.array([1.0, 1.0, 0.0])
    flat = flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-9)
    rim = 0.92 * flat * halves
    return np.where(RING[kinds][..., None], rim, inner)


def _centres(
    draws: Draws, kinds: Array, axes: Array, halves: Array, ways: Array, folds: Array
) -> Array:
    """Places (B, P, 3): every part touches one before it that is joined, not carved out."""
    objects, n_slots = np.arange(len(kinds)), kinds.shape[1]
    direction, choice = draws.unit_vectors(), draws.one()
    reach, own_reach = draws.one(0.6, 0.95), draws.one(0.1, 0.8)
    centres = np.zeros(halves.shape)
    for k in range(1, n_slots):
        parent = np.floor(choice[:, k] * k).astype(np.int64)
        parent = np.where(ways[objects, parent] == JOIN, parent, 0)
        outward = direction[:, k]
        frame, own_frame = axes[objects, parent], axes[:, k]
        towards = np.einsum("bij,bj->bi", frame, outward)
        contact = _touch(kinds[objects, parent], halves[objects, parent], towards, reach[:, k])
        contact = centres[objects, parent] + np.einsum("bij,bi->bj", frame, contact)
        back = np.einsum("bij,bj->bi", own_frame, -outward)
        own = _touch(kinds[:, k], halves[:, k], back, own_reach[:, k])
        centres[:, k] = _folded(contact - np.einsum("bij,bi->bj", own_frame, own), folds)
    return centres


def _folded(points: Array, folds: Array) -> Array:
    """Points (B, 3) moved into the half or the sector that their object's symmetry keeps."""
    x, y = points[:, 0], points[:, 1]
    turn = TURN / np.maximum(folds, 2)
    angle = np.arctan2(y, x)
    angle = np.abs(angle - turn * np.round(angle / turn))
    radius, turned = np.hypot(x, y), folds > MIRROR
    x = np.where(turned, radius * np.cos(angle), np.where(folds == MIRROR, np.abs(x), x))
    y = np.where(turned, radius * np.sin(angle), y)
    return np.stack([x, y, points[:, 2]], axis=-1)


def _box(
    kinds: Array,
    ways: Array,
    axes: Array,
    halves: Array,
    centres: Array,
    fillets: Array,
    folds: Array,
) -> tuple[Array, Array]:
    """Corners (B, 3) of boxes that hold the objects."""
    # A fillet swells what it joins by at most a quarter of its radius.
    extent = np.einsum("bpij,bpi->bpj", np.abs(axes), halves) + 0.25 * fillets[..., None]
    counts = ((kinds != ABSENT) & (ways == JOIN))[..., None]
    low = np.where(counts, centres - extent, np.inf).min(axis=1)
    high = np.where(counts, centres + extent, -np.inf).max(axis=1)
    outer = np.maximum(np.abs(low), np.abs(high))
    radius = np.hypot(outer[:, 0], outer[:, 1])
    width = np.where(folds == MIRROR, outer[:, 0], np.where(folds > MIRROR, radius, np.nan))
    depth = np.where(folds > MIRROR, radius, np.nan)
    for axis, half in ((0, width), (1, depth)):
        low[:, axis] = np.where(np.isnan(half), low[:, axis], -half)
        high[:, axis] = np.where(np.isnan(half), high[:, axis], half)
    return low - 1e-3, high + 1e-3
