"""Posed pictures and photographs prepared as the protocol says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fastrecon.data.posed import PosedViews, open_collection, open_photos
from fastrecon.evaluation.cycles import InputCamera
from fastrecon.evaluation.instances import (
    PhotoPictures,
    PosedSet,
    centre_crop,
    centred_half_side,
    evenly,
    folded,
    prepared,
    seeded_choice,
)
from tests.data.posed.made_sets import co3d, photos
from tests.evaluation.made_views import (
    COLOUR,
    FOV,
    RADIUS_PX,
    SIZE,
    disc,
    write_object,
    write_photo,
)

CAMERA = InputCamera(3.0, 30.0)


def posed(folder: Path, **overrides: object) -> PosedSet:
    collection = open_collection(folder)
    return PosedSet(collection, str(folder), CAMERA, 16, 24, **overrides)  # type: ignore[arg-type]


def test_an_object_becomes_an_input_and_targets(tmp_path: Path) -> None:
    write_object(tmp_path / "a", 13)
    (one,) = posed(tmp_path)
    assert one.name == "a"
    assert one.picture.shape == (4, 16, 16)
    assert one.truth.shape == (11, 3, 24, 24)  # the input and ten targets
    assert torch.allclose(one.c2w[0], CAMERA.canonical, atol=1e-6)
    assert one.c2w[:, :3, 3].norm(dim=-1).tolist() == pytest.approx([3.0] * 11, abs=1e-4)
    assert one.fov_deg.tolist() == pytest.approx([FOV] * 11, abs=1e-4)
    # cameras keep their angles to the input: the ring's step, spread over the twelve others
    azimuths = torch.atan2(one.c2w[1:, 1, 3], one.c2w[1:, 0, 3]).rad2deg() % 360
    places = [1, 2, 3, 5, 6, 7, 8, 10, 11, 12]
    assert azimuths.tolist() == pytest.approx([360 * k / 13 for k in places], abs=1e-2)
    assert one.fill == pytest.approx(2 * RADIUS_PX / SIZE)
    middle, corner = one.truth[:, :, 12, 12], one.truth[:, :, 0, 0]
    assert torch.allclose(middle, torch.tensor(COLOUR).expand(11, 3), atol=0.01)
    assert torch.equal(corner, torch.ones(11, 3))
    assert torch.allclose(one.picture[:3, 8, 8], torch.tensor(COLOUR), atol=0.01)
    assert one.picture[:, 0, 0].tolist() == [0.0] * 4


def test_a_crop_is_folded_into_the_focal_lengths(tmp_path: Path) -> None:
    write_object(tmp_path / "a", 3)
    (one,) = posed(tmp_path, crop=1.6, targets=2)
    assert one.fill == pytest.approx(1 / 1.6, abs=0.03)
    assert one.fov_deg.tolist() == pytest.approx([CAMERA.fov_deg] * 3, abs=1e-4)
    (wide,) = posed(tmp_path, refocus=True)
    assert wide.fill == pytest.approx(2 * RADIUS_PX / SIZE)
    assert wide.fov_deg.tolist() == pytest.approx([CAMERA.fov_deg] * 3, abs=1e-4)


def test_focal_lengths_keep_their_ratio() -> None:
    focal = torch.tensor([1.2, 1.5, 0.9])
    fov = (2 * (0.5 / focal).atan()).rad2deg()
    found = folded(fov, 39.6)
    expected = focal / 1.2 * 0.5 / math.tan(math.radians(39.6) / 2)
    assert (0.5 / (found.deg2rad() / 2).tan()).tolist() == pytest.approx(expected.tolist())


def test_every_view_of_an_instance_is_cropped_alike() -> None:
    rgba = torch.zeros(2, 4, 20, 20)
    rgba[0, :, 8:12, 9:15] = 1.0  # reaches 5 pixels to the right of the centre
    rgba[1, :, 0:20, 0:20] = 1.0
    assert centred_half_side(rgba[0, 3]) == 5.0
    views = PosedViews(
        "one", rgba, torch.eye(4).double().expand(2, 4, 4), torch.full((2,), 40.0).double()
    )
    one = prepared(views, 40.0, 1.6, 16, 16)  # 8 pixels each way: no resizing
    assert one.fill == pytest.approx(6 / 16)
    assert torch.allclose(one.truth[0, :, 8:12, 9 - 2 : 15 - 2].mean(), torch.tensor(1.0))
    expected = rgba[0, :, 2:18, 2:18]
    assert torch.allclose(one.picture, expected, atol=1e-6)
    beyond = centre_crop(rgba[1:], 12)  # wider than the picture: nothing there
    assert beyond.shape == (1, 4, 24, 24)
    assert float(beyond.sum()) == 4 * 400
    assert beyond[0, 0, 2, 2] == 1.0
    assert beyond[0, 0, 1, 1] == 0.0


def test_what_cannot_be_used_is_noted(tmp_path: Path) -> None:
    write_object(tmp_path / "good", 3)
    write_object(tmp_path / "lonely", 1)
    write_object(tmp_path / "torn", 3)
    (tmp_path / "torn" / "001.png").write_bytes(b"no picture")
    blank = write_object(tmp_path / "void", 3)
    write_photo(blank / "000.png", torch.zeros(4, SIZE, SIZE))
    some = posed(tmp_path)
    assert [one.name for one in some] == ["good"]
    reasons = {skipped.name: skipped.reason for skipped in some.skipped}
    assert set(reasons) == {"lonely", "torn", "void"}
    assert "need at least two" in reasons["lonely"]
    assert "shows no object" in reasons["void"]
    list(some)
    assert len(some.skipped) == 3  # not noted twice


def test_many_objects_are_a_seeded_choice(tmp_path: Path) -> None:
    for k in range(5):
        write_object(tmp_path / f"o{k}", 2)
    few = posed(tmp_path, most=2, seed=3)
    assert len(few) == 2
    assert few.chosen == seeded_choice(5, 2, 3)
    assert "2 of 5 (seed 3)" in few.description
    assert seeded_choice(5, 5, 0) == [0, 1, 2, 3, 4]
    assert {tuple(seeded_choice(20, 4, seed)) for seed in range(8)} != {tuple(range(4))}


def test_targets_are_spread_evenly() -> None:
    assert evenly(range(1, 6), 5) == [1, 2, 3, 4, 5]
    assert evenly(range(1, 24), 3) == [1, 12, 23]
    assert evenly([4], 3) == [4]


def test_photographs_are_centred_and_framed(tmp_path: Path) -> None:
    off = torch.zeros(4, 40, 60)
    off[:, 4:36, 2:34] = disc()
    write_photo(tmp_path / "off.png", off)
    write_photo(tmp_path / "void.png", torch.zeros(4, 40, 60))
    some = PhotoPictures(open_photos(tmp_path), str(tmp_path), CAMERA, 16, 32, ratio=0.5)
    (one,) = some
    assert [skipped.name for skipped in some.skipped] == ["void"]
    assert one.truth.shape == (1, 3, 32, 32)
    assert torch.allclose(one.c2w[0], CAMERA.canonical)
    covered = torch.nonzero(one.picture[3] > 0.5)
    assert covered.amin(0).tolist() == [4, 4]
    assert covered.amax(0).tolist() == [11, 11]  # half of 16, in the middle
    assert torch.allclose(one.truth[0, :, 16, 16], torch.tensor(COLOUR), atol=0.01)
    assert one.truth[0, :, 0, 0].tolist() == [1.0] * 3


def test_real_captures_have_their_own_numbers(tmp_path: Path) -> None:
    co3d(tmp_path, photos(8))
    some = posed(tmp_path)
    assert some.layout == "co3d"
    (one,) = some
    assert len(one.truth) == 6  # the input and five targets
    assert float(one.fov_deg[0]) == pytest.approx(39.6, abs=1e-3)
    assert one.fill <= 1 / 1.6 + 0.02
    assert "1.6 x the object's square" in some.description
    (other,) = posed(tmp_path, refocus=True)
    assert float(other.fov_deg[0]) == pytest.approx(CAMERA.fov_deg, abs=1e-3)
