"""Figures of G3DR's supplement, to be read beside ours.

They are of 128-pixel models trained on ImageNet: FID and IS of 50,000 pictures, NFS of 256 depth
maps. Ours compare with them only on the same data at the same counts.
"""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "G3DR (Reddy et al. 2024), supplement"


class ScaledFigures(NamedTuple):
    """A row of Table S1: densities multiplied by ``scale`` before rendering."""

    method: str
    scale: float
    fid: float
    inception_score: float
    nfs: float


def _rows(method: str, *rows: tuple[float, float, float, float]) -> tuple[ScaledFigures, ...]:
    return tuple(ScaledFigures(method, *row) for row in rows)


TABLE_S1: tuple[ScaledFigures, ...] = (
    *_rows(
        "KL depth loss (DS-NeRF)",
        (1.0, 44.27, 83.04, 28.96),
        (5.0, 128.64, 12.26, 29.85),
        (10.0, 174.58, 5.33, 26.21),
        (50.0, 205.15, 3.58, 22.42),
    ),
    *_rows(
        "without depth regularisation",
        (1.0, 13.13, 116.7, 36.58),
        (5.0, 73.34, 26.72, 27.97),
        (10.0, 104.91, 14.07, 25.08),
        (50.0, 152.52, 5.94, 19.38),
    ),
    *_rows(
        "G3DR",
        (1.0, 13.12, 151.72, 36.51),
        (5.0, 12.98, 146.30, 35.24),
        (10.0, 14.42, 131.95, 35.01),
        (50.0, 21.37, 99.59, 34.54),
    ),
)
"""Generated pictures as input."""


class DatasetFigures(NamedTuple):
    """Table S2."""

    fid: float
    inception_score: float
    nfs: float
    depth_accuracy: float
    """Lower is better; the arrow in the table points the other way."""


TABLE_S2 = DatasetFigures(11.25, 168.6, 36.7, 0.33)
"""ImageNet's own pictures as input, novel views."""
