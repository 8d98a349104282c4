"""The signed distance field of procedural objects: parts joined, carved and folded.

A point is folded by the object's symmetry, every part measures its distance in its own frame, and
the parts are combined in order: joined, carved out or kept in common, sharply or with a fillet
(polynomial smooth minimum, Quilez 2013). Folding is by reflections alone, so the field never
overestimates how far the surface is, and a symmetric object costs half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .arrays import Array, maths
from .solids import SOLIDS, Sizes

ABSENT = -1
JOIN, CARVE, COMMON = range(3)
"""How a part enters: union, difference, intersection with what came before."""
SIGNS = ((1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0))
"""Per way: a, b -> r * smooth_min(r a, s b) with these (r, s)."""
NO_FOLD, MIRROR = 0, 1
"""Symmetries; n >= 2 has n mirror planes through the z axis, hence n-fold rotations."""


@dataclass(frozen=True)
class Parts:
    """B objects of at most P parts, float32, in the objects' own frames."""

    kinds: Tensor  # (B, P) int64, index into SOLIDS; ABSENT pads, after an object's parts
    ways: Tensor  # (B, P) int64: JOIN, CARVE or COMMON; the first part joins
    fillets: Tensor  # (B, P) radius of the smooth minimum, 0 for a sharp one
    axes: Tensor  # (B, P, 3, 3) rows: the part's axes in the object's frame
    centres: Tensor  # (B, P, 3)
    halves: Tensor  # (B, P, 3) half sizes
    traits: Tensor  # (B, P, 2) in [0, 1]
    folds: Tensor  # (B,) int64: NO_FOLD, MIRROR (x -> |x|) or the number of mirror planes

    def to(self, device: torch.device) -> Parts:
        """The same parts on another device."""
        return Parts(*(getattr(self, f.name).to(device) for f in fields(self)))

    def rows(self, chosen: slice) -> Parts:
        """Some of the objects."""
        return Parts(*(getattr(self, f.name)[chosen] for f in fields(self)))


class _Group(NamedTuple):
    """The parts of one kind: rows of the table in which all parts are sorted by kind."""

    kind: int
    rows: slice
    sizes: Sizes


class Field:
    """Distances of ``Parts``: of one object in numpy, or densely of any number in torch.

    ``distance``, ``owned``, ``fold`` and ``normal`` take and give tensors; ``measure`` takes and
    gives numpy arrays, or tensors if dense.

    Args:
        parts: one object's, unless dense.
        dense: all objects and points at once, for GPUs; numpy is the sooner on a processor.
    """

    def __init__(self, parts: Parts, dense: bool) -> None:
        self.dense = dense
        (n_objects, n_slots), device = parts.kinds.shape, parts.kinds.device
        if not dense and n_objects != 1:
            raise ValueError(f"a field that is not dense has one object, got {n_objects}")
        flat = parts.kinds.flatten()
        order = torch.argsort(flat, stable=True)
        order = order[int((flat == ABSENT).sum()) :]
        b, k = order // n_slots, order % n_slots  # of all M parts, sorted by kind
        self.parts, self.objects = parts, b
        axes, centre = parts.axes[b, k], parts.centres[b, k]
        self.offset = self._native(-(axes * centre[:, None, :]).sum(-1)[..., None])  # (M, 3, 1)
        self.columns = [self._native(column[..., None]) for column in axes.unbind(-1)]
        self.rows = self._native(axes.flatten(0, 1))  # (3 M, 3), for one object
        h, t = parts.halves[b, k], parts.traits[b, k]
        columns = [self._native(c[:, None].contiguous()) for c in (*h.unbind(-1), *t.unbind(-1))]
        self.groups = []
        first = 0
        for kind, count in zip(*torch.unique(flat[order], return_counts=True), strict=True):
            rows = slice(first, first + int(count))
            first = rows.stop
            self.groups.append(_Group(int(kind), rows, Sizes(*(c[rows] for c in columns))))
        # Where each slot's distance is among the sorted ones; the row after them is infinite.
        place = torch.full((n_objects * n_slots,), len(order), device=device)
        place[order] = torch.arange(len(order), device=device)
        self.place = self._native(place.view(n_objects, n_slots).T)  # (P, B)
        signs = torch.tensor(SIGNS, device=device)[parts.ways]
        rows = signs[..., 0], signs[..., 1], parts.fillets
        # One object's are plain numbers, several objects' columns (B, 1).
        self.joints: list[list[Any]] = [
            [x[:, k, None] if self.dense else x[0, k].item() for x in rows] for k in range(n_slots)
        ]
        # Known beforehand, so that no fold or fillet is computed (or waited for) in vain.
        self.folds = self._native(parts.folds[:, None])
        self.has_mirror = bool((parts.folds == MIRROR).any())
        self.has_turns = bool((parts.folds > MIRROR).any())
        self.plain = ((parts.ways == JOIN) & (parts.fillets == 0)).all(0).tolist()
        self.used = (parts.kinds != ABSENT).any(0).tolist()

    def _native(self, tensor: Tensor) -> Array:
        return tensor if self.dense else tensor.numpy()

    def measure(self, x: Array, y: Array, z: Array) -> Array:
        """Coordinates (B, N) in the objects' frames -> distances (B, N), negative inside."""
        return self._combine(self._part_distances(*self._fold(x, y, z)))[0]

    def _fold(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Points brought into the half or sector that holds the parts."""
        m = maths(x)
        if self.has_mirror:
            x = m.where(self.folds == MIRROR, abs(x), x)
        if self.has_turns:
            turned = self.folds > MIRROR
            turn = 2.0 * math.pi / m.where(turned, self.folds, 2)
            turn = turn if self.dense else turn.astype("f4")
            angle = m.atan2(y, x)
            angle = abs(angle - turn * m.nearest(angle / turn))
            radius = m.sqrt(x * x + y * y)
            x = m.where(turned, radius * m.cos(angle), x)
            y = m.where(turned, radius * m.sin(angle), y)
        return x, y, z

    def _part_distances(self, x: Array, y: Array, z: Array) -> list[Array]:
        """Every slot's own distance (B, N) at folded points (B, N)."""
        if self.dense:  # elementwise, because a GPU's matrix products may round to TF32
            x, y, z = (v.index_select(0, self.objects)[:, None] for v in (x, y, z))
            a, b, c = self.columns
            local = self.offset + a * x + b * y + c * z  # (M, 3, N)
        else:
            turned = self.rows @ np.concatenate([x, y, z])
            local = turned.reshape(len(self.objects), 3, -1) + self.offset
        found = [
            SOLIDS[group.kind].distance(
                local[group.rows, 0], local[group.rows, 1], local[group.rows, 2], group.sizes
            )
            for group in self.groups
        ]
        if not self.dense:
            every = found[0] if len(found) == 1 else np.concatenate(found)
            return [every[place] for place, used in zip(self.place, self.used, strict=True) if used]
        found.append(torch.full_like(found[0][:1], torch.inf))
        every = torch.cat(found)
        return [every.index_select(0, place) for place in self.place]

    def _combine(self, distances: list[Array], owners: bool = False) -> tuple[Array, Array]:
        total = distances[0]
        m = maths(total)
        owner = total * 0.0 if owners else total
        for k, distance in enumerate(distances[1:], start=1):
            if self.plain[k] and not owners:
                total = m.minimum(total, distance)
                continue
            outer, inner, fillet = self.joints[k]
            before, part = outer * total, inner * distance
            if owners:
                owner = m.where(part < before, 1.0 * k, owner)
            total = m.minimum(before, part)
            if not self.plain[k]:
                gap = m.positive(fillet - abs(before - part))
                total = outer * (total - gap * gap / (4.0 * fillet + 1e-9))
        return total, owner

    def distance(self, points: Tensor) -> Tensor:
        """Points (3, B, N) in the objects' frames -> (B, N), negative inside."""
        return torch.as_tensor(self.measure(*(self._native(x) for x in points.unbind(0))))

    def owned(self, points: Tensor) -> Tensor:
        """The part (B, N), int64, whose surface is nearest to points (3, B, N)."""
        x, y, z = (self._native(v) for v in points.unbind(0))
        owner = self._combine(self._part_distances(*self._fold(x, y, z)), owners=True)[1]
        return torch.as_tensor(owner).long()

    def fold(self, points: Tensor) -> Tensor:
        """Points (3, B, N) brought into the half or sector that holds the parts."""
        folded = self._fold(*(self._native(v) for v in points.unbind(0)))
        return torch.stack([torch.as_tensor(v) for v in folded])

    def normal(self, points: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Unit gradients (3, B, N) at points (3, B, N), and distances (B, N).

        From four taps around each point; the distances are their means.
        """
        corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
        around = points[:, :, None] + step * corners.T[:, None, :, None]  # (3, B, 4, N)
        taps = self.distance(around.flatten(2)).unflatten(1, (4, -1))  # (B, 4, N)
        gradient = torch.einsum("ki,bkn->ibn", corners, taps)
        # Written out: torch's norm over the first dimension takes milliseconds on a processor.
        length = torch.sqrt((gradient * gradient).sum(0)).clamp(min=1e-12)
        return gradient / length, taps.mean(1)
