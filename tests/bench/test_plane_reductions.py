"""Counting reductions to the planes: tiles, runs in the order of t, and windows by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("triton", reason="reads the kernels' launch choices")

from bench import plane_reductions
from bench.plane_reductions import count, count_plane, positions, sorted_runs, tiles
from bench.workloads import B

SMALL = replace(B, plane_side=32, channels=16, hidden=(16,), image_side=16)


def test_samples_of_a_block_stand_in_the_order_of_t() -> None:
    points = positions(SMALL.inputs(1), 0, 8)
    assert points.shape == (8, 16, 64, 4)
    assert (np.diff(points[..., 3]) >= 0).all()
    runs = sorted_runs(points, (8, 8), 256)
    assert runs.shape == (8 * 16 * 64 // 256, 256, 4)
    assert (np.diff(runs.reshape(2, -1, 4)[..., 3]) >= 0).all()
    blocks = np.sort(runs[..., 3].reshape(2, -1), 1)
    assert np.array_equal(blocks, np.sort(tiles(points, (8, 8, 64))[..., 3], 1))


def test_samples_of_one_texel_are_one_window() -> None:
    """128 samples in a cell touch its four texels; one far away is left to single taps."""
    x = np.full((1, 128), 3.25)
    assert count_plane(x, x, 64) == (1, 4, 0, 128)
    x[0, 5] = 40.5
    assert count_plane(x, x, 64) == (1, 4, 1, 128)
    x[0, 7] = 80.0  # not on the plane
    assert count_plane(x, x, 64) == (1, 4, 1, 127)


def test_sorted_runs_need_fewer_reductions(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = SMALL.inputs(1)
    picture = count(inputs, 1, 16, lambda points: tiles(points, (4, 4, 8)))
    ordered = count(inputs, 1, 16, lambda points: sorted_runs(points, (8, 8), 256))
    assert ordered.merged + ordered.left < picture.merged + picture.left < picture.raw
    assert picture.raw == pytest.approx(ordered.raw)
    monkeypatch.setattr(plane_reductions, "MISSES", 0)
    alone = count(inputs, 1, 16, lambda points: tiles(points, (4, 4, 8)))
    assert (alone.windows, alone.merged) == (0, 0)
    assert alone.left == pytest.approx(alone.raw)
