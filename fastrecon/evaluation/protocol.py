"""The protocol: reconstruct every object from its one picture, and compare views and surface.

The same is asked of two baselines: the mean image of the training objects, which has no surface,
and the extruded silhouette. Differences between methods are paired, object by object.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from fastrecon_kernels import Rendering
from torch import Tensor
from tqdm import tqdm

from ..cameras import camera_rays
from ..errors import MeshError
from ..export.mesh import extract_mesh
from ..models.lrm import LRM
from .estimates import Estimate, estimate
from .extrusion import Extrusion
from .geometry import ShapeScores, Surface, compare
from .metrics import psnr, ssim
from .subjects import Skipped, Subject, SubjectSet
from .validation import NEAR_DEG, SAME_VIEW_DEG

Method = Literal["model", "mean image", "extrusion", "truth"]
Metric = Literal["psnr", "ssim"]
DRAWN: tuple[Method, ...] = ("model", "mean image", "extrusion")
"""Methods with pictures."""
SHAPED: tuple[Method, ...] = ("model", "extrusion", "truth")
"""Methods with a surface; "truth" is the true surface sampled once more, the best possible."""
VIEWS = ("near", "far", "all")
FROM_GLTF = [2, 0, 1]
"""glTF's axes (x right, y up, z to the viewer) to world (x to the viewer, y right, z up)."""


class EvaluationError(ValueError):
    """Nothing could be evaluated; the message says why and what to do."""


@dataclass(frozen=True)
class ShapeSettings:
    """How surfaces are compared."""

    resolution: int = 96
    """Grid points along a side of the box in which meshes are cut."""
    points: int = 10_000
    """Points on either surface."""
    seed: int = 0
    """Of the points."""


class Outcome(NamedTuple):
    """What became of one object."""

    name: str
    image: Tensor  # (3, S, S) the model's input
    angles: Tensor  # (V,) degrees from the input view
    pictures: dict[str, Tensor]  # (V, 3, H, W) uint8: "truth", "model", "extrusion"
    psnr: dict[Method, Tensor]  # (V,) dB
    ssim: dict[Method, Tensor]  # (V,)
    shape: dict[Method, ShapeScores | None]  # None: no surface; empty: not compared


@dataclass
class SetResult:
    """Outcomes of a set of objects."""

    key: str
    title: str
    description: str
    outcomes: list[Outcome]
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data_set: str = ""
    """The published data set that this is, if known."""

    @cached_property
    def angles(self) -> Tensor:
        """(n, V), degrees."""
        return torch.stack([outcome.angles for outcome in self.outcomes])

    def values(self, metric: Metric, method: Method) -> Tensor:
        """(n, V)."""
        return torch.stack([getattr(outcome, metric)[method] for outcome in self.outcomes])

    def chosen(self, views: str) -> Tensor:
        """Which views (n, V) are "near", "far" or "all"; the input view itself is none of them."""
        novel, near = self.angles >= SAME_VIEW_DEG, self.angles <= NEAR_DEG
        return {"near": novel & near, "far": novel & ~near, "all": novel}[views]

    def picture_estimate(
        self,
        metric: Metric,
        method: Method,
        views: str,
        over: Method | None = None,
    ) -> Estimate | None:
        """Of a method, or of its difference to another on the same pictures."""
        values = self.values(metric, method)
        if over is not None:
            values = values - self.values(metric, over)
        return estimate(values, self.chosen(views))

    def shape_values(self, metric: str, method: Method) -> Tensor:
        """(n, 1); NaN where a method has no surface, which is an F-score of 0."""
        absent = 0.0 if metric == "fscore" else torch.nan
        scores = [outcome.shape[method] for outcome in self.outcomes]
        return torch.tensor([[absent if s is None else getattr(s, metric)] for s in scores])

    def shape_estimate(
        self, metric: str, method: Method, over: Method | None = None
    ) -> Estimate | None:
        """Over the objects of which every method has a surface (F-score: all objects)."""
        compared: list[Method] = [m for m in SHAPED if m in self.outcomes[0].shape]
        known = torch.stack([self.shape_values(metric, m) for m in compared]).isfinite().all(0)
        values = self.shape_values(metric, method)
        if over is not None:
            values = values - self.shape_values(metric, over)
        return estimate(values.nan_to_num(), known)

    def without_surface(self, method: Method) -> list[str]:
        """Objects of which a method has no surface."""
        return [outcome.name for outcome in self.outcomes if outcome.shape[method] is None]


@torch.no_grad()
def evaluate_set(
    lrm: LRM,
    subjects: SubjectSet,
    mean_image: Tensor | None,
    settings: ShapeSettings,
    baselines: bool = True,
    shapes: bool = True,
) -> SetResult:
    """Reconstruct and compare every subject of a set.

    Args:
        lrm: in eval mode.
        mean_image: (3, H, W), of the size of the true pictures; only baselines need it.
        baselines: also score the mean image and the extruded silhouette.
        shapes: also compare surfaces; without, ``settings`` is not used and no subject needs one.

    Raises:
        EvaluationError: not one subject could be used, or the model is broken.
    """
    outcomes = []
    bar = tqdm(subjects, desc=subjects.title.lower(), unit="object", leave=False, disable=None)
    for subject in bar:
        outcomes.append(
            evaluate_subject(lrm, subject, mean_image, settings, baselines=baselines, shapes=shapes)
        )
        bar.set_postfix_str(f"PSNR {float(outcomes[-1].psnr['model'].mean()):.1f} dB")
    if not outcomes:
        name, reason = subjects.skipped[0]
        raise EvaluationError(
            f"none of the {len(subjects)} objects could be used; the first, {name}: {reason}"
        )
    return SetResult(
        subjects.key,
        subjects.title,
        subjects.description,
        outcomes,
        subjects.skipped,
        subjects.notes,
    )


@torch.no_grad()
def evaluate_subject(
    lrm: LRM,
    subject: Subject,
    mean_image: Tensor | None,
    settings: ShapeSettings,
    baselines: bool = True,
    shapes: bool = True,
) -> Outcome:
    """Reconstruct one object by every method and compare; arguments as of `evaluate_set`.

    Raises:
        EvaluationError: the model's pictures are not finite.
        ValueError: a baseline or a shape is asked for without what it needs.
    """
    if baselines and mean_image is None:
        raise ValueError("baselines need a mean image; pass one or baselines=False")
    device = next(lrm.parameters()).device
    image = subject.image(lrm.config.input_background)
    planes = lrm.encode(image[None].to(device)).float()
    truth, size = subject.pictures, subject.pictures.shape[-1]
    rays_o, rays_d = camera_rays(subject.c2w.to(device), size, size, lrm.config.fov_deg)
    rendering: Rendering = lrm.render(planes, rays_o[None], rays_d[None])
    if not bool(torch.isfinite(rendering.rgb).all()):
        raise EvaluationError(
            f"the model's pictures of {subject.name} are not finite; check the weights"
        )
    pictures: dict[Method, Tensor] = {
        "model": rendering.rgb[0].float().cpu().movedim(-1, -3).clamp(0.0, 1.0)
    }
    extrusion = Extrusion(subject.rgba, lrm.config) if baselines else None
    if extrusion is not None and mean_image is not None:
        pictures["mean image"] = mean_image.expand_as(truth)
        pictures["extrusion"] = extrusion.render(subject.c2w, size)
    drawn = {"truth": truth} | {str(m): p for m, p in pictures.items() if m != "mean image"}
    return Outcome(
        name=subject.name,
        image=image,
        angles=subject.angles,
        pictures={m: _bytes(p) for m, p in drawn.items()},
        psnr={m: psnr(p, truth) for m, p in pictures.items()},
        ssim={m: ssim(p, truth) for m, p in pictures.items()},
        shape=_shapes(lrm, planes, extrusion, subject, settings) if shapes else {},
    )


def _shapes(
    lrm: LRM, planes: Tensor, extrusion: Extrusion | None, subject: Subject, settings: ShapeSettings
) -> dict[Method, ShapeScores | None]:
    if subject.surface is None:
        raise ValueError(f"{subject.name} has no true surface; make its set with surfaces=True")
    surfaces: dict[Method, Surface | None] = {
        "model": _model_surface(lrm, planes, settings.resolution)
    }
    if extrusion is not None:
        surfaces["extrusion"] = _extruded_surface(extrusion, settings.resolution)
        surfaces["truth"] = subject.surface
    return _compare_all(surfaces, subject.surface, settings)


def _compare_all(
    surfaces: dict[Method, Surface | None], truth: Surface, settings: ShapeSettings
) -> dict[Method, ShapeScores | None]:
    expected = truth.sample(settings.points, settings.seed)
    scores: dict[Method, ShapeScores | None] = {}
    for method, surface in surfaces.items():
        scores[method] = None
        if surface is not None:
            with contextlib.suppress(MeshError):  # faces without area are no surface either
                points = surface.sample(settings.points, settings.seed + 1)
                scores[method] = compare(points, expected, truth.longest_side)
    return scores


def _model_surface(lrm: LRM, planes: Tensor, resolution: int) -> Surface | None:
    try:
        mesh = extract_mesh(lrm, planes, resolution=resolution)
    except MeshError:
        return None
    return Surface(np.asarray(mesh.vertices)[:, FROM_GLTF], np.asarray(mesh.faces))


def _extruded_surface(extrusion: Extrusion, resolution: int) -> Surface | None:
    try:
        return extrusion.surface(resolution)
    except MeshError:
        return None


def _bytes(pictures: Tensor) -> Tensor:
    return pictures.clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
