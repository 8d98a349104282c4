"""The protocol on made-up subjects: groups, gains, and models without a surface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import trimesh

from fastrecon.cameras import orbit_c2w
from fastrecon.evaluation.geometry import Surface
from fastrecon.evaluation.protocol import (
    EvaluationError,
    SetResult,
    ShapeSettings,
    evaluate_set,
    evaluate_subject,
)
from fastrecon.evaluation.subjects import Skipped, Subject
from fastrecon.models.lrm import LRM
from tests.micro import micro_config

QUICK = ShapeSettings(resolution=12, points=100)
MEAN = torch.full((3, 12, 12), 0.9)


def subject(name: str = "ball", grey: float = 0.2) -> Subject:
    """A grey disc that was a ball of radius 0.4; the input view itself, a near and two far ones."""
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    ticks = torch.linspace(-1, 1, 16)
    alpha = (ticks[:, None] ** 2 + ticks**2 < 0.3).float()[None]
    azimuths = torch.tensor([0.0, 30.0, 90.0, 180.0]).deg2rad()
    picture = torch.ones(3, 12, 12)
    picture[:, 4:8, 4:8] = grey
    return Subject(
        name=name,
        rgba=torch.cat([torch.full((3, 16, 16), grey), alpha]),
        c2w=orbit_c2w(azimuths, 0.0, 1.9),
        pictures=picture.expand(4, 3, 12, 12),
        surface=Surface(np.asarray(mesh.vertices), np.asarray(mesh.faces)),
    )


@dataclass
class Given:
    """A set of given subjects."""

    subjects: list[Subject]
    key: str = "given"
    title: str = "Given"
    description: str = "given subjects"
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.subjects) + len(self.skipped)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects)


def model(mesh_level: float) -> LRM:
    torch.manual_seed(0)
    return LRM(micro_config(mesh_level=mesh_level)).eval()


@pytest.fixture(scope="module")
def result() -> SetResult:
    # so low a level that the random density crosses it at the box at least
    return evaluate_set(model(1e-5), Given([subject("a"), subject("b", 0.6)]), MEAN, QUICK)


def test_groups_of_views(result: SetResult) -> None:
    assert result.angles[0].tolist() == pytest.approx([0, 30, 90, 180], abs=0.05)
    groups = {views: result.chosen(views)[0].tolist() for views in ("near", "far", "all")}
    assert groups["near"] == [False, True, False, False]
    assert groups["far"] == [False, False, True, True]
    assert groups["all"] == [False, True, True, True]


def test_gains_are_paired_differences(result: SetResult) -> None:
    whole = result.picture_estimate("psnr", "model", "all")
    base = result.picture_estimate("psnr", "mean image", "all")
    gain = result.picture_estimate("psnr", "model", "all", "mean image")
    assert whole is not None
    assert base is not None
    assert gain is not None
    assert gain.mean == pytest.approx(whole.mean - base.mean, abs=1e-5)
    assert (whole.count, whole.objects) == (6, 2)
    ours, mean = (result.values("psnr", m)[:, 1:].mean(1) for m in ("model", "mean image"))
    low, high = sorted((ours - mean).tolist())
    assert (gain.low, gain.high) == pytest.approx((low, high), abs=1e-4)


def test_the_mean_image_is_scored_as_it_is(result: SetResult) -> None:
    mse = (16 * (0.9 - 0.2) ** 2 + 128 * 0.1**2) / 144
    expected = -10 * np.log10(mse)
    assert result.outcomes[0].psnr["mean image"].tolist() == pytest.approx([expected] * 4, abs=1e-3)


def test_the_truth_sampled_again_is_the_best_possible(result: SetResult) -> None:
    for outcome in result.outcomes:
        best, ours = outcome.shape["truth"], outcome.shape["model"]
        assert best is not None
        assert ours is not None
        assert 0 < best.chamfer < ours.chamfer
        assert best.chamfer_scaled == pytest.approx(best.chamfer * 2 / 0.8, rel=0.01)
        assert ours.fscore < best.fscore


def test_no_surface_is_an_fscore_of_zero_and_left_out_of_chamfer() -> None:
    empty = evaluate_set(model(1e30), Given([subject()]), MEAN, QUICK)
    assert empty.without_surface("model") == ["ball"]
    assert empty.without_surface("extrusion") == []
    assert empty.shape_estimate("chamfer", "model") is None
    assert empty.shape_estimate("chamfer", "extrusion") is None  # the same objects for all
    found = empty.shape_estimate("fscore", "model")
    assert found is not None
    assert found.mean == 0.0


def test_model_meshes_are_turned_back_to_world_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    # a thin triangle far along +x, the viewer: in glTF's axes that is +z
    thin = trimesh.Trimesh([[0.0, 0, 0.5], [0.01, 0, 0.5], [0, 0.01, 0.5]], [[0, 1, 2]])
    monkeypatch.setattr("fastrecon.evaluation.protocol.extract_mesh", lambda *a, **k: thin)
    one = subject()
    spot = trimesh.creation.icosphere(subdivisions=1, radius=0.001)
    truth = Surface(np.asarray(spot.vertices) + np.array([0.5, 0, 0]), np.asarray(spot.faces))
    moved = Subject(one.name, one.rgba, one.c2w, one.pictures, truth)
    shape = evaluate_subject(model(1.0), moved, MEAN, QUICK).shape["model"]
    assert shape is not None
    assert shape.chamfer < 0.03


def test_broken_weights_are_said_to_be_broken() -> None:
    broken = model(1.0)
    with torch.no_grad():
        next(broken.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(EvaluationError, match="pictures of ball are not finite"):
        evaluate_set(broken, Given([subject()]), MEAN, QUICK)


def test_a_set_without_a_usable_object_says_why() -> None:
    nothing = Given([], skipped=[Skipped("dented", "it is damaged")])
    with pytest.raises(EvaluationError, match=r"none of the 1 objects.*dented: it is damaged"):
        evaluate_set(model(1.0), nothing, MEAN, QUICK)
