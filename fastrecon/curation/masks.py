"""Instance masks inside their bounding boxes, and the square dilation and erosion of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Mask:
    """What an instance covers of a picture of ``shape`` (H, W), cut to its bounding box."""

    inside: Bool  # (h, w), its first and last rows and columns are not empty
    top: int
    left: int
    shape: tuple[int, int]

    @classmethod
    def cut(cls, whole: NDArray) -> Mask | None:
        """The mask of a whole picture ``(H, W)``, anything but 0 is inside; None if it is empty."""
        whole = np.asarray(whole, bool)
        columns = np.flatnonzero(whole.any(0))
        if not len(columns):
            return None
        left = int(columns[0])
        strip = whole[:, left : columns[-1] + 1]
        rows = np.flatnonzero(strip.any(1))
        top = int(rows[0])
        inside = np.ascontiguousarray(strip[top : rows[-1] + 1])
        return cls(inside, top, left, (whole.shape[0], whole.shape[1]))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width, height in pixels, the order of COCO."""
        height, width = self.inside.shape
        return self.left, self.top, width, height

    @property
    def scale(self) -> float:
        """s = (b_x + b_y) / 2 of appendix B, pixels."""
        return sum(self.inside.shape) / 2

    @property
    def margin(self) -> int:
        """Pixels between the box and the nearest border of the picture."""
        left, top, width, height = self.box
        return min(left, top, self.shape[0] - top - height, self.shape[1] - left - width)

    @property
    def window(self) -> tuple[slice, slice]:
        """The box as rows and columns of the picture."""
        return self.grown(0)

    def grown(self, margin: int) -> tuple[slice, slice]:
        """The box grown by ``margin`` pixels where the picture has them."""
        left, top, width, height = self.box
        return (
            slice(max(top - margin, 0), top + height + margin),
            slice(max(left - margin, 0), left + width + margin),
        )

    def contains(self, points: NDArray[np.intp]) -> Bool:
        """Whether pixels ``(N, 2)`` (row, column of the picture) belong to it."""
        y, x = points[:, 0] - self.top, points[:, 1] - self.left
        height, width = self.inside.shape
        there = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return there & self.inside[y.clip(0, height - 1), x.clip(0, width - 1)]


def dilate(mask: Bool, size: int) -> Bool:
    """Pixels with anything of the mask in the square of odd side ``size`` around them."""
    return _sweep(_sweep(mask, size, np.logical_or), size, np.logical_or)


def erode(mask: Bool, size: int) -> Bool:
    """Pixels whose square of odd side ``size`` is all mask; beyond the array there is none."""
    return _sweep(_sweep(mask, size, np.logical_and), size, np.logical_and)


def _sweep(mask: Bool, size: int, combine: np.ufunc) -> Bool:
    """Combine windows along the columns and turn the array, so that two sweeps turn it back.

    Windows are doubled until they are long enough: a 15 px window costs 4 passes over the bytes.
    """
    height, width = mask.shape
    radius = size // 2
    run = np.zeros((height + 2 * radius, width), bool)
    run[radius : radius + height] = mask
    length = 1
    while length < size:
        step = min(length, size - length)
        run = combine(run[:-step], run[step:])
        length += step
    return np.ascontiguousarray(run.T)
