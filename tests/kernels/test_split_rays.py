"""Chunks of rays: under the bound, every ray once, pictures cut between tiles."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton", reason="chunks are those of the Triton path")

from fastrecon_kernels.render import triton_path
from fastrecon_kernels.render.triton_path import PICTURE_ROWS, split_rays
from fastrecon_kernels.render.tuning import TUNING

RAYS_PER_OBJECT = 1000


def split(n_rays: int, most: int, width: int, one_object: bool = False) -> list[slice]:
    """Chunks of at most ``most`` rays of 3 samples."""
    field: Any = SimpleNamespace(one_object=one_object, sample_bytes=lambda backward: 68)
    call: Any = SimpleNamespace(rays_per_object=RAYS_PER_OBJECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_path, "CHUNK_BYTES", 300 * most + 299)
        return split_rays(n_rays, 3, call, field, True, width)


@pytest.mark.parametrize("one_object", [False, True])
@pytest.mark.parametrize("width", [0, 1, 5, 25, 250])
@pytest.mark.parametrize("most", [1, 3, 4, 7, 99, 100, 101, 199, 999, 1000, 5000])
@pytest.mark.parametrize("n_rays", [1000, 3000])
def test_every_ray_is_in_one_chunk(n_rays: int, most: int, width: int, one_object: bool) -> None:
    chunks = split(n_rays, most, width, one_object)
    assert [ray for part in chunks for ray in range(part.start, part.stop)] == list(range(n_rays))
    assert max(part.stop - part.start for part in chunks) <= most
    if one_object:
        assert all(
            part.start // RAYS_PER_OBJECT == (part.stop - 1) // RAYS_PER_OBJECT for part in chunks
        )


@pytest.mark.parametrize(
    ("most", "width", "step"),
    [
        (99, 25, 96),  # a row of tiles has 100 rays and does not fit
        (100, 25, 100),
        (199, 25, 100),
        (330, 25, 300),
        (330, 7, 308),
        (330, 0, 328),
        (3, 0, 3),
        (3, 1, 3),
        (7, 1, 4),
    ],
)
def test_chunks_of_pictures_are_rows_of_tiles(most: int, width: int, step: int) -> None:
    assert {part.stop - part.start for part in split(3000, most, width)[:-1]} == {step}


def test_tiles_have_as_many_rows() -> None:
    assert {row.patch[1] for row in TUNING.values()} == {PICTURE_ROWS}


def test_no_rays() -> None:
    assert split(0, 8, 4) == []
