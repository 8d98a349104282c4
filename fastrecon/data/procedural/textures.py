"""Surface colour of procedural parts: patterns that mix two colours, small pictures, and light.

A pattern maps three phases, affine functions of a point in its part's own frame counted in periods,
to a mixing weight in [0, 1] between the part's two colours. A new pattern is one more function here
and one more entry in ``PATTERNS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
TURN = 2.0 * math.pi


def _odd(whole: Tensor) -> Tensor:
    """1 where a whole number is odd, else 0."""
    return whole - 2.0 * torch.floor(whole * 0.5)


def _fraction(x: Tensor) -> Tensor:
    return x - torch.floor(x)


def solid(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The first colour everywhere."""
    return torch.zeros_like(a)


def checker(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """A chessboard in three dimensions."""
    return _odd(torch.floor(a) + torch.floor(b) + torch.floor(c))


def stripes(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Layers one period thick."""
    return _odd(torch.floor(a))


def bands(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Thin lines of the second colour, a fifth of a period wide."""
    return (_fraction(a) < 0.2).to(a.dtype)


def dots(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Balls of the second colour on a cubic lattice."""
    squares = sum((_fraction(x) - 0.5).square() for x in (a, b, c))
    return (torch.as_tensor(squares) < 0.09).to(a.dtype)


def rings(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Concentric shells around an axis, as in wood."""
    return 0.5 + 0.5 * torch.sin(torch.sqrt(a * a + b * b) * (0.5 * TURN))


def waves(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Smooth blotches: the mean of three sinusoids, one along each phase."""
    total = torch.sin(a * TURN) + torch.sin(b * TURN) + torch.sin(c * TURN)
    return total * (1.0 / 6.0) + 0.5


def noise(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Marble: sinusoids whose phases are shifted by others, in two octaves."""
    warp = torch.sin(b * TURN) + torch.sin(c * 1.7 * TURN)
    coarse = torch.sin(a * TURN + 1.5 * warp)
    fine = torch.sin((a + b) * 2.3 * TURN + 2.0 * torch.sin(c * 2.9 * TURN))
    return 0.5 + 0.33 * coarse + 0.17 * fine


def ramp(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """From one colour to the other and back over two periods."""
    return 0.5 - 0.5 * torch.cos(a * (0.5 * TURN))


Pattern = Callable[[Tensor, Tensor, Tensor], Tensor]
PATTERNS: tuple[Pattern, ...] = (
    solid,
    checker,
    stripes,
    bands,
    dots,
    rings,
    waves,
    noise,
    ramp,
)
PICTURE = len(PATTERNS)
"""One more kind of surface: a small picture of its own, mirrored at its edges."""
PICTURE_SIDE = 24


def mix(patterns: Tensor, phases: Tensor, dense: bool) -> Tensor:
    """Weights (...) of the second colour; patterns (...) into PATTERNS, phases (3, ...).

    ``dense`` computes every pattern everywhere: a GPU would wait to know which ones occur.
    """
    weight = torch.zeros_like(phases[0])
    for i, pattern in enumerate(PATTERNS[1:], start=1):
        chosen = patterns == i
        if dense:
            weight = torch.where(chosen, pattern(*phases.unbind(0)), weight)
        elif bool(chosen.any()):
            weight[chosen] = pattern(*phases[:, chosen].unbind(0))
    return weight


def look_up(pictures: Tensor, which: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Bilinear colours (3, ...) of square pictures (n, 3, S, S), two periods to a mirrored tile.

    Args:
        pictures: n of them.
        which: (...) int64, the picture of every point.
        u, v: (...) phases.
    """
    side = pictures.shape[-1]

    def position(x: Tensor) -> Tensor:
        mirrored = 1.0 - (_fraction(0.5 * x) * 2.0 - 1.0).abs()
        return mirrored * (side - 1.001)

    x, y = position(u), position(v)
    left, top = torch.floor(x), torch.floor(y)
    fx, fy = x - left, y - top
    texels = pictures.movedim(1, -1).reshape(-1, 3)
    first = ((which * side + top.long()) * side) + left.long()
    upper = torch.lerp(texels[first].movedim(-1, 0), texels[first + 1].movedim(-1, 0), fx)
    first = first + side
    lower = torch.lerp(texels[first].movedim(-1, 0), texels[first + 1].movedim(-1, 0), fx)
    return torch.lerp(upper, lower, fy)


def draw_pictures(uniform: Array) -> Array:
    """Image-like pictures (n, 3, S, S): a gradient with rectangles and discs, in a few colours.

    Args:
        uniform: (n, PICTURE_DRAWS) numbers uniform on [0, 1).
    """
    draws, n = iter(np.moveaxis(uniform, -1, 0)), len(uniform)

    def take(k: int) -> Array:
        return np.stack([next(draws) for _ in range(k)], axis=-1)

    grid = (np.arange(PICTURE_SIDE) + 0.5) / PICTURE_SIDE
    x, y = np.broadcast_to(grid, (n, PICTURE_SIDE, PICTURE_SIDE)), grid[None, :, None]
    first, second = (hsv_to_rgb(take(3))[:, :, None, None] for _ in range(2))
    tilt = take(2)[:, :, None, None]
    ramp = np.clip(tilt[:, 0] * x + tilt[:, 1] * y, 0.0, 1.0)[:, None]
    picture = first + ramp * (second - first)
    for _ in range(_SHAPES):
        centre, size, kind = take(2), 0.06 + 0.3 * take(2), take(1)
        colour = hsv_to_rgb(take(3))[:, :, None, None]
        dx = np.abs(x - centre[:, 0, None, None]) / size[:, 0, None, None]
        dy = np.abs(y - centre[:, 1, None, None]) / size[:, 1, None, None]
        far = np.where(kind[..., None] < 0.5, np.maximum(dx, dy), np.hypot(dx, dy))
        picture = np.where((far < 1.0)[:, None], colour, picture)
    return picture


_SHAPES = 6
PICTURE_DRAWS = 8 + 8 * _SHAPES


def hsv_to_rgb(hsv: Array) -> Array:
    """(..., 3) hue (one turn is 1), saturation and value -> (..., 3) red, green and blue."""
    hue, saturation, value = hsv[..., 0:1], hsv[..., 1:2], hsv[..., 2:3]
    k = (np.array([5.0, 3.0, 1.0]) + 6.0 * hue) % 6.0
    return value * (1.0 - saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0))
