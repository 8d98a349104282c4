"""Vector reductions to the planes per sample, counted on the rays of a workload.

    python -m bench.plane_reductions [A B] [--views 2] [--rows 32]

A count of what `render/kernel_windows.py` does, tile by tile, in numpy: how many windows a tile
needs, which texels they touch (each takes WIDTH / 4 additions of four floats), how many samples are
left to single taps. Workload A with its own samples; B with the positions that importance sampling
chose. Beside the kernels' tiles stands one order that they do not have: blocks of 8 x 8 rays whose
samples are sorted by t and cut into runs. It is arithmetic on geometry, no measurement.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from fastrecon_kernels import render_rays
from fastrecon_kernels.common.checks import axis_indices
from fastrecon_kernels.common.random import seed_tensor
from fastrecon_kernels.render.rays import importance_samples, sample_rays
from fastrecon_kernels.render.tuning import TUNING
from numpy.typing import NDArray
from torch import Tensor

from bench.workloads import WORKLOADS, Inputs

SIDE = 8
SHARE, MISSES = 16, 4
"""Of `kernel_windows.py`: the smallest part of a tile that pays for a window, and its patience."""
SEED = 0
SORTED_BLOCK, SORTED_RUN = (8, 8), 256
"""Rays across and down whose samples are sorted, and samples of a run."""


class Count(NamedTuple):
    """Per sample, summed over planes and levels."""

    windows: float  # per tile, plane and level
    merged: float  # reductions from windows
    left: float  # reductions of single taps
    raw: float  # were all samples to go tap by tap


def place(inputs: Inputs, rays_o: Tensor, rays_d: Tensor, levels: Sequence[Tensor]) -> Tensor:
    """ts (1, N, S) of all samples, coarse and fine, in order."""
    coarse = replace(inputs.settings, n_importance=0)
    ts, _ = sample_rays(rays_o, rays_d, coarse, seed=SEED)
    if not inputs.settings.n_importance:
        return ts
    with torch.no_grad():
        result = render_rays(
            levels, inputs.decoder, rays_o, rays_d, coarse, per_sample=True, seed=SEED
        )
    assert result.samples is not None
    seed = seed_tensor(SEED, ts.device)
    fine = importance_samples(ts[0], result.samples.weights[0], inputs.settings, seed)
    return torch.cat([ts[0], fine], 1).sort(1).values[None]


def positions(inputs: Inputs, view: int, rows: int) -> NDArray[np.float64]:
    """(rows, columns, S, 4), middle rows of a view: x, y, z with the box at [-1, 1], and t."""
    side = int(inputs.rays_o.shape[1] ** 0.5)
    part = slice((side - rows) // 2 * side, (side + rows) // 2 * side)
    rays_o, rays_d = inputs.rays_o[view : view + 1, part], inputs.rays_d[view : view + 1, part]
    ts = place(inputs, rays_o, rays_d, [level[view : view + 1] for level in inputs.levels])
    points = (rays_o[..., None, :] + ts[..., None] * rays_d[..., None, :]) / inputs.settings.radius
    return torch.cat([points, ts[..., None]], -1)[0].view(rows, side, -1, 4).double().numpy()


def tiles(points: NDArray[np.float64], patch: Sequence[int]) -> NDArray[np.float64]:
    """(tiles, M, 4): whole tiles of patch = (across, down, deep) alone."""
    across, down, deep = patch
    height, width, depth = (
        n // p for n, p in zip(points.shape, (down, across, deep), strict=False)
    )
    points = points[: height * down, : width * across, : depth * deep]
    split = points.reshape(height, down, width, across, depth, deep, 4)
    return split.transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, across * down * deep, 4)


def sorted_runs(points: NDArray[np.float64], block: Sequence[int], run: int) -> NDArray[np.float64]:
    """(tiles, run, 4): samples of whole blocks of rays (across, down) in the order of t."""
    blocks = tiles(points, (*block, points.shape[2]))
    order = np.argsort(blocks[..., 3], axis=1, kind="stable")
    whole = blocks.shape[1] // run * run
    return np.take_along_axis(blocks, order[..., None], 1)[:, :whole].reshape(-1, run, 4)


def count_plane(x: NDArray, y: NDArray, size: int) -> tuple[int, int, int, int]:
    """Windows, texels touched in them, samples left, samples in reach; x, y (tiles, M) texels."""
    n, m = x.shape
    column, line = (np.floor(np.clip(p, -2, size + 1)).astype(int) for p in (x, y))
    left = (column >= -1) & (column < size) & (line >= -1) & (line < size)
    reach = int(left.sum())
    misses = np.zeros(n, int)
    windows = texels = rest = 0
    far = np.iinfo(int).max
    while (active := left.any(1) & (misses < MISSES)).any():
        first = np.where(left, column, far).min(1, keepdims=True)
        covered = left & (column <= np.minimum(first, size) + SIDE - 2) & active[:, None]
        top = np.where(covered, line, far).min(1, keepdims=True)
        covered &= line <= np.minimum(top, size) + SIDE - 2
        left &= ~covered
        pays = covered.sum(1) * SHARE >= m
        misses += active & ~pays
        rest += int(covered[~pays].sum())
        windows += int((active & pays).sum())
        touched = np.zeros((n, size + 2, size + 2), bool)
        tile, sample = np.nonzero(covered & pays[:, None])
        for dx, dy in itertools.product((0, 1), (0, 1)):
            touched[tile, line[tile, sample] + dy + 1, column[tile, sample] + dx + 1] = True
        texels += int(touched[:, 1:-1, 1:-1].sum())
    return windows, texels, rest + int(left.sum()), reach


Cut = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""`positions` to tiles (tiles, M, 4)."""


def count(inputs: Inputs, views: int, rows: int, cut: Cut) -> Count:
    """Of the first views of a workload, in the tiles that ``cut`` makes."""
    totals = np.zeros(4)
    samples = seen = 0
    vectors = inputs.decoder.weights[0].shape[0] / 4
    for view in range(views):
        for part in np.array_split(cut(positions(inputs, view, rows)), 16):
            samples += part.shape[0] * part.shape[1]
            for level in inputs.levels:
                size = level.shape[-1]
                for u, v in axis_indices(inputs.settings.axes):
                    x, y = ((part[..., axis] + 1) * size / 2 - 0.5 for axis in (u, v))
                    totals += count_plane(x, y, size)
                    seen += part.shape[0]
    windows, texels, rest, reach = totals
    return Count(
        windows / seen,
        texels * vectors / samples,
        4 * rest * vectors / samples,
        4 * reach * vectors / samples,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plane_reductions", description=__doc__)
    parser.add_argument("workloads", nargs="*", default=["A", "B"])
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--rows", type=int, default=32, help="of each picture, in the middle")
    options = parser.parse_args()
    tuning = TUNING["hopper"]
    for name in options.workloads:
        inputs = WORKLOADS[name].inputs(options.views)
        orders: dict[str, Cut] = {
            f"picture {tuning.patch}": functools.partial(tiles, patch=tuning.patch),
            f"rows of rays {tuning.line}": functools.partial(tiles, patch=tuning.line),
            f"sorted {SORTED_BLOCK}, runs of {SORTED_RUN}": functools.partial(
                sorted_runs, block=SORTED_BLOCK, run=SORTED_RUN
            ),
        }
        for what, cut in orders.items():
            found = count(inputs, options.views, options.rows, cut)
            print(
                f"{name} {what}: {found.merged + found.left:.1f} reductions per sample "
                f"({found.left:.1f} of single taps; {found.raw:.0f} without windows), "
                f"{found.windows:.2f} windows per tile",
                flush=True,
            )


if __name__ == "__main__":
    main()
