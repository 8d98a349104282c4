"""Random materials and light for procedural objects."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .arrays import single
from .composition import Composition
from .draws import Draws
from .field import ABSENT
from .surface import Lights, Materials
from .textures import PATTERNS, PICTURE, PICTURE_DRAWS, checker, draw_pictures, hsv_to_rgb

Array = NDArray[np.float64]
SOLID_SHARE, PICTURE_SHARE = 0.35, 0.15
"""Shares of plain parts and of parts with a picture; the patterns share the rest evenly."""
ONE_MATERIAL_SHARE = 0.25
"""Objects all of one material, as cast or carved things are."""


def paint(whole: Draws, draws: Draws, made: Composition) -> Materials:
    """Materials of the parts."""
    u = draws.one()
    n_patterns = len(PATTERNS) - 1
    share = (u - SOLID_SHARE) / (1.0 - SOLID_SHARE - PICTURE_SHARE)
    patterns = np.where(u < SOLID_SHARE, 0, 1 + np.floor(share * n_patterns)).astype(np.int64)
    patterns = np.where(u >= 1.0 - PICTURE_SHARE, PICTURE, patterns)
    halves = made.parts.halves.numpy().astype(np.float64)
    axes = np.stack([draws.unit_vectors() for _ in range(3)], axis=-2)
    along = (patterns == PATTERNS.index(checker)) | (patterns == PICTURE)
    axes = np.where(along[..., None, None], np.eye(3), axes)
    # One to four periods along the body's typical half size, on every part the same.
    rows = axes * draws.one(0.8, 3.0)[..., None, None]
    phases = draws.take(3)
    # A picture spans its part's faces once.
    spans = np.eye(3) * (0.5 / halves)[..., None, :]
    shown = patterns == PICTURE
    rows = np.where(shown[..., None, None], spans, rows)
    phases = np.where(shown[..., None], 0.5, phases)
    hue = np.stack([draws.one(), draws.one()], axis=-1)
    # From greys and whites to strong colours, as things are.
    hsv = np.stack([hue, draws.take(2) ** 1.5 * 0.95, 1.0 - 0.8 * draws.take(2) ** 1.5], axis=-1)
    colours = hsv_to_rgb(hsv)
    uniform = draws.take(PICTURE_DRAWS)
    same = (whole.one() < ONE_MATERIAL_SHARE)[:, None]

    def shared(table: Array) -> Array:
        chosen = (same & ~shown & ~shown[:, :1]).reshape(same.shape[0], -1, *[1] * (table.ndim - 2))
        return np.where(chosen, table[:, :1], table)

    patterns, rows, phases, colours = (shared(x) for x in (patterns, rows, phases, colours))
    present = shown & (made.parts.kinds.numpy() != ABSENT)
    pictures = draw_pictures(uniform[present])
    picture_of = np.where(present, np.cumsum(present).reshape(present.shape) - 1, 0)
    return Materials(
        torch.from_numpy(patterns),
        single(rows),
        single(phases),
        single(colours),
        single(pictures),
        torch.from_numpy(picture_of),
    )


def illuminate(draws: Draws) -> Lights:
    """A tinted sky and ground, one lamp above, for two thirds of the objects more anywhere."""
    up = draws.unit_vectors() * 0.5 + np.array([0.0, 0.0, 1.0])
    up /= np.linalg.norm(up, axis=-1, keepdims=True)
    towards = np.stack([draws.unit_vectors() for _ in range(3)], axis=1)
    towards[:, 0, 2] = np.abs(towards[:, 0, 2])
    strengths = np.stack([draws.one(0.1, 0.7), draws.one(-0.3, 0.3), draws.one(-0.4, 0.2)], axis=1)
    strengths = np.maximum(strengths, 0.0)
    sky = draws.one(0.45, 1.0)
    ground = sky * draws.one(0.3, 1.0)
    # What faces the first lamp and the sky is about fully lit, as in a well exposed photograph.
    total = sky + 0.8 * strengths[:, 0] + 0.5 * strengths[:, 1:].sum(1)
    tints = 1.0 - draws.one(0.0, 0.15)[:, None, None] * np.stack(
        [draws.take(3) for _ in range(3)], 1
    )
    occlusion = draws.one(0.0, 0.5)
    lamps = strengths[..., None] / total[:, None, None] * tints[:, 2:]
    rows = (
        up,
        (sky / total)[:, None] * tints[:, 0],
        (ground / total)[:, None] * tints[:, 1],
        towards,
        lamps,
        occlusion,
    )
    return Lights(*(single(x) for x in rows))
