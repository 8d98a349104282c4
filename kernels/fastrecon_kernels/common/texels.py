"""Planes as the kernels read them: one table of channel-last texels for all levels.

Row ``first[l] + ((b * 3 + p) * H_l + y) * W_l + x`` of the table holds the C channels of texel
(x, y) of plane p of object b at level l, so that one bilinear tap is one contiguous load.

Taps of weight 0 (see `quads.py`) may read beyond the last row where a plane is one texel wide or
high; rows of zeros lie there.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Texels(NamedTuple):
    """All texels of a pyramid of triplanes (a single triplane is a pyramid of one level)."""

    rows: Tensor  # (T, C) contiguous
    table: Tensor  # (L, 3) int64 on the same device: H, W, first row of each level


def pack_texels(levels: Sequence[Tensor], dtype: torch.dtype) -> Texels:
    """Levels (B, 3, C, H_l, W_l) as `Texels` of the given dtype.

    Planes that already lie channel-last in memory are not copied when there is one level.
    """
    channels = levels[0].shape[2]
    table = level_table(tuple(tuple(level.shape) for level in levels), levels[0].device)
    spare = max(level.shape[4] + 1 if min(level.shape[3:]) == 1 else 0 for level in levels)
    if len(levels) == 1 and not spare:
        rows = levels[0].permute(0, 1, 3, 4, 2).to(dtype).reshape(-1, channels).contiguous()
        return Texels(rows, table)
    counts = [level.numel() // channels for level in levels]
    total = sum(counts)
    rows = torch.empty(total + spare, channels, dtype=dtype, device=levels[0].device)
    rows[total:].zero_()
    rows = rows[:total]
    for part, level in zip(rows.split(counts), levels, strict=True):
        last = level.permute(0, 1, 3, 4, 2)
        part.view(last.shape).copy_(last)
    return Texels(rows, table)


def unpack_gradient(d_rows: Tensor, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients (T, C) of the texels in the shape and dtype of each level."""
    channels = levels[0].shape[2]
    parts = d_rows.split([level.numel() // channels for level in levels])
    gradients = []
    for part, level in zip(parts, levels, strict=True):
        batch, _, _, height, width = level.shape
        last = part.view(batch, 3, height, width, channels)
        gradients.append(last.permute(0, 1, 4, 2, 3).to(level.dtype))
    return tuple(gradients)


@functools.cache
def level_table(shapes: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """The (L, 3) table of `Texels`; kept, so that a call copies nothing to the device.

    For good: a captured CUDA graph reads it where it lies.
    """
    table, first = [], 0
    for batch, planes, _, height, width in shapes:
        table.append([height, width, first])
        first += batch * planes * height * width
    # The cache outlives the call that fills it, which may be in inference mode.
    with torch.inference_mode(False):
        return torch.tensor(table, dtype=torch.int64, device=device)
