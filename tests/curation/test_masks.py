"""Masks and their dilation and erosion, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from fastrecon.curation.masks import Mask, dilate, erode


@pytest.mark.parametrize("size", [3, 9, 15])
@pytest.mark.parametrize("shape", [(1, 1), (4, 30), (40, 33)])
def test_squares_are_those_of_scipy(size: int, shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(size).random(shape) < 0.05
    thick = np.asarray(ndimage.binary_dilation(mask, np.ones((5, 5))), bool)
    square = np.ones((size, size))
    assert np.array_equal(dilate(mask, size), ndimage.binary_dilation(mask, square))
    assert np.array_equal(erode(thick, size), ndimage.binary_erosion(thick, square))


def test_a_mask_knows_its_box() -> None:
    whole = np.zeros((50, 80), bool)
    whole[10:30, 20:61] = True
    whole[10, 20] = False
    mask = Mask.cut(whole)
    assert mask is not None
    assert mask.box == (20, 10, 41, 20)
    assert mask.scale == 30.5
    assert mask.margin == 10  # above; 19 to the right
    points = np.array([[10, 20], [10, 21], [29, 60], [30, 60], [0, 0], [49, 79]])
    assert mask.contains(points).tolist() == [False, True, True, False, False, False]
    assert Mask.cut(np.zeros((5, 5))) is None
