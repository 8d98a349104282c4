"""The supplement's figures."""

from __future__ import annotations

import numpy as np
import torch
from fastrecon_kernels import DepthKernel

from fastrecon.evaluation.scenes.figures import (
    CAPTION,
    CELL,
    GAP,
    LABEL,
    PLOT,
    kernel_curve,
    kernel_figure,
    level_figure,
    sigma_figure,
)
from fastrecon.evaluation.scenes.sources import ProceduralScenes
from tests.evaluation.scenes.made_scenes import MICRO, micro_trigen


def cell(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    y, x = CAPTION + row * (CELL + GAP), LABEL + column * (CELL + GAP)
    return picture[y : y + CELL, x : x + CELL]


def test_scales_and_models_stand_side_by_side() -> None:
    models = {"kernel/model": micro_trigen(0), "a/model/of/a/long/name": micro_trigen(1)}
    batch = ProceduralScenes(max_parts=1).batch(0, 4, MICRO)
    picture = sigma_figure(models, batch, (1.0, 50.0))
    # input and 2 x 2 columns; three scenes of colour and depth
    assert picture.shape == (CAPTION + 6 * (CELL + GAP), LABEL + 5 * (CELL + GAP), 3)
    shown = [cell(picture, 0, k) for k in range(5)]
    assert all((a != b).any() for k, a in enumerate(shown) for b in shown[:k])
    mean = batch.images[0].mean((1, 2)) * 255
    np.testing.assert_allclose(shown[0].mean((0, 1)), mean.numpy(), atol=8)


def test_levels_from_the_coarsest_to_all() -> None:
    model, batch = micro_trigen(), ProceduralScenes(max_parts=1).batch(0, 1, MICRO)
    picture = level_figure({"m": model}, batch)
    assert picture.shape == (CAPTION + CELL + GAP, LABEL + 4 * (CELL + GAP), 3)
    # the last is the model as it is
    same = sigma_figure({"m": model}, batch, (1.0,))
    np.testing.assert_array_equal(cell(picture, 0, 3), cell(same, 0, 1))
    assert (cell(picture, 0, 1) != cell(picture, 0, 3)).any()


def test_the_kernel_s_curve() -> None:
    t, k, middle = kernel_curve(DepthKernel(), (4.0, 6.0), 2001)
    away = np.abs(t - middle)
    assert middle == 5.0
    assert (k[away < 0.0818] == 1.0).all()
    np.testing.assert_allclose(k[away > 0.3108], 0.05)
    between = (away > 0.082) & (away < 0.31)
    np.testing.assert_allclose(k[between], 1.25 * np.exp(-(away[between] ** 2) / 0.03))
    picture = kernel_figure(DepthKernel(), (4.0, 6.0))
    assert picture.shape == (PLOT[1], PLOT[0], 3)
    blue = (picture[..., 2].astype(int) - picture[..., 0]) > 80
    assert int(torch.from_numpy(blue).any(0).sum()) > 500  # a curve from side to side
