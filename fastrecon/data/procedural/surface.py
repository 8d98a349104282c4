"""What the surfaces of procedural objects look like: materials, light, and both put together."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .field import Field
from .textures import PICTURE, look_up, mix

NORMAL_STEP = 1.5e-3
"""Half the distance of the taps that a normal is taken from; smaller drowns in fp32's rounding."""
SHADE_REACH = 0.12
"""How far in front of a surface free space is looked for (ambient occlusion)."""


@dataclass(frozen=True)
class Materials:
    """One per part, float32."""

    patterns: Tensor  # (B, P) int64, index into PATTERNS, or PICTURE
    phase_rows: Tensor  # (B, P, 3, 3) periods per unit of the part's frame
    phases: Tensor  # (B, P, 3)
    colours: Tensor  # (B, P, 2, 3) in [0, 1]
    pictures: Tensor  # (n, 3, S, S) in [0, 1]
    picture_of: Tensor  # (B, P) int64, index into pictures

    def to(self, device: torch.device) -> Materials:
        """The same materials on another device."""
        return Materials(*(getattr(self, f.name).to(device) for f in fields(self)))

    def rows(self, chosen: slice) -> Materials:
        """Those of some of the objects."""
        kept = {f.name: getattr(self, f.name)[chosen] for f in fields(self)}
        return Materials(**kept | {"pictures": self.pictures})


@dataclass(frozen=True)
class Lights:
    """The light on every object, fixed to the world, float32; where it is 1 colours are kept."""

    up: Tensor  # (B, 3) unit: where the sky is brightest
    sky: Tensor  # (B, 3) colour from above
    ground: Tensor  # (B, 3) colour from below
    towards: Tensor  # (B, L, 3) unit, toward the lamps
    lamps: Tensor  # (B, L, 3) their colours
    occlusion: Tensor  # (B,) how much nooks darken, in [0, 1]

    def to(self, device: torch.device) -> Lights:
        """The same lights on another device."""
        return Lights(*(getattr(self, f.name).to(device) for f in fields(self)))

    def rows(self, chosen: slice) -> Lights:
        """Those on some of the objects."""
        return Lights(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def on(self, normals: Tensor) -> Tensor:
        """Light (3, B, N) on matt surfaces with unit world normals (3, B, N), nooks apart."""
        height = 0.5 + 0.5 * torch.einsum("ibn,bi->bn", normals, self.up)
        sky, ground = self.sky.T[..., None], self.ground.T[..., None]
        total = ground + height * (sky - ground)
        for k in range(self.lamps.shape[1]):
            facing = torch.einsum("ibn,bi->bn", normals, self.towards[:, k]).clamp(min=0.0)
            total = total + facing * self.lamps[:, k].T[..., None]
        return total


def surface_colour(field: Field, materials: Materials, points: Tensor, owner: Tensor) -> Tensor:
    """Colour (3, B, N) of points (3, B, N) of the objects' frames on the parts owner (B, N)."""
    folded = field.fold(points)
    objects = torch.arange(owner.shape[0], device=owner.device)[:, None].expand_as(owner)
    parts = field.parts

    def pick(table: Tensor) -> Tensor:
        """The owners' rows of a table (B, P, ...): (..., B, N)."""
        rows = table[objects, owner]
        return rows.movedim((0, 1), (-2, -1))

    axes = pick(parts.axes)
    local = torch.einsum("ijbn,jbn->ibn", axes, folded - pick(parts.centres))
    phases = torch.einsum("ijbn,jbn->ibn", pick(materials.phase_rows), local)
    phases = phases + pick(materials.phases)
    patterns = pick(materials.patterns)
    first, second = pick(materials.colours).unbind(0)
    colour = first + mix(patterns, phases, field.dense) * (second - first)
    if not materials.pictures.shape[0]:
        return colour
    # A picture lies on the side of the part's box that the point is nearest to.
    along = (local / pick(parts.halves)).abs().argmax(0)
    u = torch.where(along == 0, phases[1], phases[0])
    v = torch.where(along == 2, phases[1], phases[2])
    shown = look_up(materials.pictures, pick(materials.picture_of), u, v)
    return torch.where(patterns == PICTURE, shown, colour)


def open_sky(field: Field, points: Tensor, normals: Tensor) -> Tensor:
    """How free the space before surface points is, in [0, 1]: (3, B, N) twice -> (B, N)."""
    return (field.distance(points + SHADE_REACH * normals) / SHADE_REACH).clamp(0.0, 1.0)
