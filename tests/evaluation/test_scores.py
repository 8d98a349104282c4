"""Scores per object: the means of the protocol's views, with or without surfaces."""

from __future__ import annotations

import pytest
import torch

from fastrecon.config import Config, DataConfig
from fastrecon.evaluation.protocol import ShapeSettings, evaluate_set
from fastrecon.evaluation.scores import score_subjects
from fastrecon.evaluation.subjects import ProceduralSet
from fastrecon.models.lrm import LRM
from tests.micro import micro_config

QUICK = ShapeSettings(resolution=12, points=100)
CFG = Config(model=micro_config(mesh_level=1e-5), data=DataConfig(max_parts=2, supersample=1))


def model() -> LRM:
    torch.manual_seed(0)
    return LRM(CFG.model).eval()


def test_scores_are_means_over_the_novel_views_of_an_object() -> None:
    subjects = ProceduralSet(CFG, 2, 3, 12)
    whole = evaluate_set(model(), subjects, torch.full((3, 12, 12), 0.9), QUICK)
    scores = score_subjects(model(), subjects, QUICK)
    assert scores.names == ["procedural-000", "procedural-001"]
    psnr, ssim = whole.values("psnr", "model"), whole.values("ssim", "model")
    assert torch.allclose(scores.psnr, psnr.mean(1).double(), atol=1e-6)
    assert torch.allclose(scores.ssim, ssim.mean(1).double(), atol=1e-6)
    for found, metric in ((scores.chamfer, "chamfer_scaled"), (scores.fscore, "fscore")):
        assert torch.allclose(found, whole.shape_values(metric, "model")[:, 0].double())


def test_without_surfaces_nothing_is_cut_or_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrecon.evaluation.protocol.extract_mesh", None)
    monkeypatch.setattr("fastrecon.evaluation.subjects.scene_surface", None)
    made = list(ProceduralSet(CFG, 2, 3, 12, surfaces=False))
    scores = score_subjects(model(), made)
    assert scores.psnr.isfinite().all()
    assert scores.chamfer.isnan().all()
    assert scores.fscore.isnan().all()
    assert torch.equal(scores.psnr, score_subjects(model(), made).psnr)


def test_a_set_without_baselines_and_shapes() -> None:
    subjects = ProceduralSet(CFG, 2, 3, 12, surfaces=False)
    result = evaluate_set(model(), subjects, None, QUICK, baselines=False, shapes=False)
    assert list(result.outcomes[0].psnr) == ["model"]
    assert result.outcomes[0].shape == {}
    assert result.picture_estimate("psnr", "model", "all") is not None
    alone = evaluate_set(model(), ProceduralSet(CFG, 1, 3, 12), None, QUICK, baselines=False)
    assert list(alone.outcomes[0].shape) == ["model"]
    assert alone.shape_estimate("chamfer", "model") is not None


def test_what_is_missing_is_asked_for() -> None:
    subjects = ProceduralSet(CFG, 1, 3, 12, surfaces=False)
    with pytest.raises(ValueError, match="pass one or baselines=False"):
        evaluate_set(model(), subjects, None, QUICK)
    with pytest.raises(ValueError, match="procedural-000 has no true surface"):
        score_subjects(model(), subjects, QUICK)
    with pytest.raises(ValueError, match="no subject to score"):
        score_subjects(model(), [])
