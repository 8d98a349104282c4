"""One number per object and metric: what experiments compare models by, object by object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.lrm import LRM
from .geometry import ShapeScores
from .protocol import ShapeSettings, evaluate_subject
from .subjects import Subject
from .validation import SAME_VIEW_DEG


class ObjectScores(NamedTuple):
    """Scores of n objects, float64; rows of two models on the same subjects are pairs."""

    names: list[str]
    psnr: Tensor  # (n,) dB, the mean over an object's novel views
    ssim: Tensor  # (n,)
    chamfer: Tensor
    """(n,) both directions summed, the true object's longest side scaled to 2; NaN without a
    surface, or where surfaces were not compared."""
    fscore: Tensor  # (n,) 0 without a surface, NaN where surfaces were not compared


@torch.no_grad()
def score_subjects(
    lrm: LRM, subjects: Iterable[Subject], shapes: ShapeSettings | None = None
) -> ObjectScores:
    """Score a model on subjects, without baselines.

    Args:
        lrm: in eval mode.
        subjects: a set, or a list of its subjects: objects are then made once for many models.
        shapes: how surfaces are compared; None leaves them out, and subjects need none.

    Raises:
        EvaluationError: the model's pictures are not finite.
        ValueError: no subject at all, or one without a surface where ``shapes`` are asked for.
    """
    names, rows = [], []
    for subject in subjects:
        settings = shapes or ShapeSettings()
        found = evaluate_subject(
            lrm, subject, None, settings, baselines=False, shapes=shapes is not None
        )
        novel = found.angles >= SAME_VIEW_DEG
        pictures = [float(metric["model"][novel].mean()) for metric in (found.psnr, found.ssim)]
        names.append(subject.name)
        rows.append([*pictures, *_shape(found.shape.get("model"), shapes is not None)])
    if not rows:
        raise ValueError("there is no subject to score; the set is empty or all of it was skipped")
    return ObjectScores(names, *torch.tensor(rows, dtype=torch.float64).unbind(1))


def _shape(found: ShapeScores | None, compared: bool) -> tuple[float, float]:
    if found is not None:
        return found.chamfer_scaled, found.fscore
    return torch.nan, 0.0 if compared else torch.nan
