"""Pictures of reconstructions judged by Real3D's protocol: novel views, meaning, there and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..images import on_background
from ..models.lrm import LRM
from .cycles import WHITE, InputCamera, encode_picture, render_views, there_and_back
from .estimates import Estimate, estimate
from .fid import Fid, FidMeter
from .instances import Instance, InstanceSet, PosedSet, resized
from .judges import PERCEPTUAL_NAMES, Judges
from .metrics import psnr
from .protocol import EvaluationError
from .subjects import Skipped

NOVEL, INPUT, BOTH = "novel views", "input view", "novel views and the input view"
AROUND, CYCLE = "around", "self-consistency"
GROUPS = (NOVEL, INPUT, BOTH, AROUND, CYCLE)
METRICS = ("psnr", "ssim", "perceptual", "clip")
THUMBNAIL = 80
"""Side of the pictures kept for the sheet, pixels."""
PICTURED = 200
"""Instances whose pictures are kept: the sheet chooses among them, and memory stays small."""
GRID = tuple(round(0.7 + 0.05 * k, 2) for k in range(13))
"""Distances of a search, in units of the model's own."""
SEARCH_SIZE = 64
"""Side of the pictures that a search compares, pixels."""


class Parts(NamedTuple):
    """What is measured beside the views that are known."""

    semantic: bool = False
    cycle: bool = False


class Measured(NamedTuple):
    """Metrics of one instance, one value per picture."""

    name: str
    groups: dict[str, dict[str, Tensor]]
    thumbnails: dict[str, Tensor]  # (n, 3, THUMBNAIL, THUMBNAIL) uint8; empty if not kept
    fill: float


@dataclass
class Search:
    """A grid search over the camera's distance on the very set that is evaluated."""

    distances: list[float]
    psnr: list[float]
    """Mean over the instances' novel views, dB."""
    best: float


@dataclass
class ViewResult:
    """What became of a set."""

    key: str
    title: str
    description: str
    data_set: str
    camera: InputCamera
    measured: list[Measured]
    skipped: list[Skipped]
    fid: Fid | None = None
    search: Search | None = None
    perceptual_name: str = PERCEPTUAL_NAMES["lpips"]
    absent: dict[str, str] = field(default_factory=dict)
    """Metrics that were not computed, and why."""

    @property
    def fill(self) -> float:
        """Mean share of the input picture's side that objects fill."""
        return sum(one.fill for one in self.measured) / len(self.measured)

    @property
    def groups(self) -> list[str]:
        """Kinds of pictures that were judged."""
        return [group for group in GROUPS if group in self.measured[0].groups]

    def values(self, group: str, metric: str) -> Tensor | None:
        """(n, V), NaN where an instance has fewer pictures; None if it was not computed."""
        rows = [one.groups[group].get(metric) for one in self.measured if group in one.groups]
        known = [row for row in rows if row is not None]
        if not known:
            return None
        table = torch.full((len(known), max(len(row) for row in known)), torch.nan)
        for k, row in enumerate(known):
            table[k, : len(row)] = row
        return table

    def estimate(self, group: str, metric: str) -> Estimate | None:
        """The mean over all pictures of a group, with its interval over instances."""
        values = self.values(group, metric)
        return None if values is None else estimate(values, values.isfinite())


def evaluate_views(
    lrm: LRM, instances: InstanceSet, camera: InputCamera, judges: Judges, parts: Parts
) -> ViewResult:
    """Reconstruct every instance from its input picture and judge pictures of it.

    Args:
        lrm: in eval mode.
        camera: what the model takes the input picture to be made with.

    Raises:
        EvaluationError: not one instance could be used.
    """
    meter = FidMeter(judges.inception) if judges.inception and parts.semantic else None
    measured, failed = [], []
    bar = tqdm(instances, desc=instances.title.lower(), unit="object", leave=False, disable=None)
    for instance in bar:
        try:
            found = measure(lrm, instance, camera, judges, parts, meter)
        except ValueError as error:
            failed.append(Skipped(instance.name, str(error)))
            continue
        measured.append(found if len(measured) < PICTURED else found._replace(thumbnails={}))
        shown = NOVEL if NOVEL in measured[-1].groups else INPUT
        bar.set_postfix_str(f"PSNR {float(measured[-1].groups[shown]['psnr'].mean()):.1f} dB")
    skipped = [*instances.skipped, *failed]
    if not measured:
        name, reason = [*skipped, ("the set", "it is empty")][0]
        raise EvaluationError(
            f"none of the {len(instances)} objects could be used; the first, {name}: {reason}"
        )
    return ViewResult(
        key=instances.key,
        title=instances.title,
        description=instances.description,
        data_set=instances.data_set,
        camera=camera,
        measured=measured,
        skipped=skipped,
        fid=meter.result() if meter else None,
        perceptual_name=judges.perceptual_name,
        absent=_absent(judges, parts),
    )


def measure(
    lrm: LRM,
    instance: Instance,
    camera: InputCamera,
    judges: Judges,
    parts: Parts,
    meter: FidMeter | None = None,
) -> Measured:
    """Metrics of one instance; features for FID go to ``meter``.

    Raises:
        ValueError: the model's pictures are not finite.
    """
    size = instance.truth.shape[-1]
    camera = InputCamera(camera.distance, float(instance.fov_deg[0]))
    planes = encode_picture(lrm, instance.picture, camera)
    seen = render_views(lrm, planes, instance.c2w, instance.fov_deg, size)
    pictures = on_background(seen, WHITE)
    known = judges.compare(pictures, instance.truth)
    groups = {INPUT: {name: values[:1] for name, values in known.items()}}
    if len(pictures) > 1:
        groups[NOVEL] = {name: values[1:] for name, values in known.items()}
        groups[BOTH] = known
    shown = {"input": instance.truth[:1], "truth": instance.truth[1:], "model": pictures}
    reference = instance.truth[0]
    if parts.semantic:
        cameras = camera.around()
        fov = torch.full((len(cameras),), camera.fov_deg)
        around = on_background(render_views(lrm, planes, cameras, fov, size), WHITE)
        groups[AROUND] = judges.compare_meaning(around, reference)
        shown["around"] = around
        if meter:
            meter.add(around, reference[None])
    if parts.cycle:
        back = there_and_back(lrm, planes, camera, size)
        groups[CYCLE] = judges.compare(back, reference.expand_as(back))
        shown["there and back"] = back
    return Measured(
        instance.name,
        groups,
        {name: _thumbnails(x) for name, x in shown.items() if len(x)},
        instance.fill,
    )


def search_distance(lrm: LRM, instances: PosedSet) -> Search:
    """The distance of ``GRID`` at which novel views of a set score the best mean PSNR.

    All cameras' positions are proportional to it; a pose-conditioned model is told it too.

    Raises:
        EvaluationError: not one instance could be used.
    """
    small = replace(instances, size=SEARCH_SIZE, skipped=[])
    own = lrm.config.camera_distance
    start = instances.camera.distance
    distances = [own * factor for factor in GRID]
    scores: list[Tensor] = []
    failed: list[Skipped] = []
    for instance in tqdm(small, desc="camera distance", unit="object", leave=False, disable=None):
        try:
            scores.append(_by_distance(lrm, instance, start, distances))
        except ValueError as error:
            failed.append(Skipped(instance.name, str(error)))
    if not scores:
        name, reason = [*small.skipped, *failed, ("the set", "it is empty")][0]
        raise EvaluationError(f"no object could be used to search; the first, {name}: {reason}")
    means = torch.stack(scores).mean(0).tolist()
    return Search(distances, means, distances[means.index(max(means))])


def _by_distance(lrm: LRM, instance: Instance, start: float, distances: Sequence[float]) -> Tensor:
    """Mean PSNR of an instance's novel views, with the input camera at each distance."""
    fov_deg = float(instance.fov_deg[0])
    told = lrm.config.backbone.conditioning != "none"
    planes = encode_picture(lrm, instance.picture, InputCamera(start, fov_deg))
    row = []
    for distance in distances:
        if told:
            planes = encode_picture(lrm, instance.picture, InputCamera(distance, fov_deg))
        c2w = instance.c2w[1:].clone()
        c2w[:, :3, 3] *= distance / start
        seen = render_views(lrm, planes, c2w, instance.fov_deg[1:], SEARCH_SIZE)
        row.append(psnr(on_background(seen, WHITE), instance.truth[1:]).mean())
    return torch.stack(row)


def _absent(judges: Judges, parts: Parts) -> dict[str, str]:
    return (
        dict(judges.absent)
        if parts.semantic
        else {name: why for name, why in judges.absent.items() if name == judges.perceptual_name}
    )


def _thumbnails(pictures: Tensor) -> Tensor:
    return resized(pictures, THUMBNAIL).clamp(0, 1).mul(255).round().to(torch.uint8)
