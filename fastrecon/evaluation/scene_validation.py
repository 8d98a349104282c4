"""How good is f_trigen on scenes that it never saw: their own view, their shape, other sides."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from fastrecon_kernels import RenderSettings
from torch import Tensor

from ..config.g3dr import G3DRConfig, SceneCameraConfig
from ..data.procedural.scenes import rgbd_scenes
from ..data.rgbd import RGBD, RGBDBatch, RGBDError, RGBDSet, open_rgbd, split, squared
from ..models.trigen import TriGen
from ..scene_cameras import depth_to_distance, scene_c2w, scene_rays
from .estimates import Estimate, estimate
from .metrics import psnr
from .scene_metrics import depth_accuracy, non_flatness

HELD_OUT = 2**40
"""First index of the procedural scenes that training never sees."""
YAWS = (-0.35, 0.35, -0.18, 0.18)
PITCHES = (0.0, 0.0, 0.12, -0.12)
"""Novel views, radians; the outer ones are those of the videos."""


def stacked(samples: Sequence[RGBD], size: int) -> RGBDBatch:
    """The middle squares of samples, at one size."""
    pairs = [squared(sample, size) for sample in samples]
    return RGBDBatch(
        torch.stack([image for image, _ in pairs]),
        torch.stack([depth for _, depth in pairs]),
        torch.tensor([sample.label for sample in samples]),
    )


@dataclass(frozen=True)
class SceneSet:
    """Held-out scenes; novel views where the truth is known."""

    batch: RGBDBatch
    distance: Tensor  # (n, S, S) along the canonical rays
    novel_c2w: Tensor | None = None  # (n, V, 4, 4)
    novel: Tensor | None = None  # (n, V, 3, S, S)
    inside: Tensor | None = None  # (n, V, S, S) what is seen lies in the box

    @classmethod
    def make(cls, cfg: G3DRConfig) -> SceneSet:
        """``cfg.run.validation_objects`` scenes of the kind that the run learns from.

        Raises:
            RGBDError: the set's pictures cannot be read.
        """
        size, camera, count = cfg.model.size, cfg.model.camera, cfg.run.validation_objects
        if cfg.data.path:
            samples = open_rgbd(cfg.data.path)
            chosen = _usable(samples, split(cfg, samples)[0])
            return cls.without_truth(stacked(chosen, size), camera)
        if count < 1:
            raise RGBDError(f"run.validation_objects must be at least 1, got {count}")
        return cls.procedural(
            cfg.data.seed, count, size, camera, cfg.run.validation_views, cfg.data.max_parts
        )

    @classmethod
    def without_truth(cls, batch: RGBDBatch, camera: SceneCameraConfig) -> SceneSet:
        """Pictures with depth whose other sides nobody knows."""
        return cls(batch, depth_to_distance(batch.depth[:, 0], camera.depth_range))

    @classmethod
    def procedural(
        cls,
        seed: int,
        count: int,
        size: int,
        camera: SceneCameraConfig,
        views: int,
        max_parts: int,
    ) -> SceneSet:
        """The first ``count`` held-out procedural scenes, with ``views`` of the novel views."""
        views = min(views, len(YAWS))
        yaw, pitch = (torch.tensor([0.0, *angles[:views]]) for angles in (YAWS, PITCHES))
        c2w = scene_c2w(yaw, pitch, camera.radius).expand(count, views + 1, 4, 4)
        indices = range(HELD_OUT, HELD_OUT + count)
        seen = rgbd_scenes(seed, indices, size, camera, c2w, max_parts=max_parts)
        batch = RGBDBatch(
            seen.images[:, 0],
            seen.depth(camera)[:, 0],
            torch.zeros(count, dtype=torch.long),
        )
        distance = depth_to_distance(batch.depth[:, 0], camera.depth_range)
        return cls(batch, distance, c2w[:, 1:], seen.images[:, 1:], seen.inside[:, 1:])


def _usable(samples: RGBDSet, held_out: Sequence[int]) -> list[RGBD]:
    """Those of the held-out samples that can be read."""
    found, reason = [], None
    for index in held_out:
        try:
            found.append(samples.sample(index))
        except RGBDError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            reason = error
    if not found:
        raise RGBDError(f"none of the {len(held_out)} held out can be used; the last: {reason}")
    return found


@dataclass(frozen=True)
class SceneScores:
    """Means over held-out scenes with 95% bootstrap intervals."""

    scenes: int
    sigma_scale: float
    """Densities are multiplied by this (Table S1)."""
    psnr: Estimate
    """Canonical view, dB."""
    depth_accuracy: Estimate
    """MSE of normalised depth, canonical view; lower is better."""
    non_flatness: Estimate
    novel_psnr: Estimate | None
    """Where the truth is known, over pixels that show the box."""
    against_unscaled: Estimate | None
    """PSNR of the canonical view to the same view with densities as they are; None at scale 1."""

    def scalars(self) -> dict[str, float]:
        """Flat numbers for logs."""
        found = {
            "psnr_input": self.psnr.mean,
            "depth_accuracy": self.depth_accuracy.mean,
            "nfs": self.non_flatness.mean,
        }
        return found | ({"psnr_novel": self.novel_psnr.mean} if self.novel_psnr else {})

    def table(self) -> str:
        """The result for a terminal."""
        rows = [
            ("PSNR of the input view", self.psnr.text() + " dB"),
            ("depth accuracy (lower is better)", self.depth_accuracy.text(3)),
            ("non-flatness", self.non_flatness.text()),
        ]
        if self.novel_psnr is not None:
            rows.append(("PSNR of novel views", self.novel_psnr.text() + " dB"))
        if self.against_unscaled is not None:
            rows.append(("PSNR to the unscaled view", self.against_unscaled.text() + " dB"))
        return "\n".join(f"{name:34s} {value}" for name, value in rows)


@dataclass(frozen=True)
class SceneResult:
    """Per scene, before means are taken."""

    psnr: Tensor  # (n,)
    depth_accuracy: Tensor  # (n,)
    non_flatness: Tensor  # (n,)
    novel_psnr: Tensor | None  # (n,) mean over the views
    against_unscaled: Tensor | None  # (n,)
    pictures: Tensor  # (n, 3, S, S) canonical
    distance: Tensor  # (n, S, S)

    def scores(self, sigma_scale: float = 1.0) -> SceneScores:
        """Means and intervals."""

        def mean(values: Tensor) -> Estimate:
            found = estimate(values[:, None], torch.ones(len(values), 1, dtype=torch.bool))
            assert found is not None
            return found

        return SceneScores(
            scenes=len(self.psnr),
            sigma_scale=sigma_scale,
            psnr=mean(self.psnr),
            depth_accuracy=mean(self.depth_accuracy),
            non_flatness=mean(self.non_flatness),
            novel_psnr=None if self.novel_psnr is None else mean(self.novel_psnr),
            against_unscaled=None if self.against_unscaled is None else mean(self.against_unscaled),
        )


@torch.no_grad()
def judge_scenes(
    model: TriGen,
    scenes: SceneSet,
    *,
    sigma_scale: float = 1.0,
    unscaled: Tensor | None = None,
    seed: int = 0,
) -> SceneResult:
    """Render held-out scenes and compare.

    Args:
        sigma_scale: multiplies densities after their activation (Table S1).
        unscaled: (n, 3, S, S) pictures at scale 1, to compare with.
        seed: of the samples along the rays; the same for every model.
    """
    camera, device = model.config.camera, next(model.parameters()).device
    render = model.config.render
    settings = replace(render, density_scale=render.density_scale * sigma_scale)
    size = scenes.batch.images.shape[-1]
    pictures, distances, novel = [], [], []
    for i in range(len(scenes.batch.images)):
        image, depth = (x[i : i + 1].to(device) for x in (scenes.batch.images, scenes.batch.depth))
        levels = model.pyramid(model.encode(image, depth).float())
        c2w = scene_c2w(0.0, 0.0, camera.radius)[None, None]
        if scenes.novel_c2w is not None:
            c2w = torch.cat([c2w, scenes.novel_c2w[i : i + 1]], dim=1)
        rgb, distance = _render(model, levels, c2w.to(device), size, settings, seed)
        pictures.append(rgb[0])
        distances.append(distance[0])
        novel.append(rgb[1:])
    shown, distance = torch.stack(pictures), torch.stack(distances)
    novel_psnr = None
    if scenes.novel is not None and scenes.inside is not None:
        values = _masked_psnr(torch.stack(novel), scenes.novel, scenes.inside)
        novel_psnr = values.mean(1)
    return SceneResult(
        psnr=psnr(shown, scenes.batch.images),
        depth_accuracy=depth_accuracy(distance, scenes.distance),
        non_flatness=non_flatness(distance, camera.depth_range),
        novel_psnr=novel_psnr,
        against_unscaled=None if unscaled is None else psnr(shown, unscaled),
        pictures=shown,
        distance=distance,
    )


def _render(
    model: TriGen,
    levels: tuple[Tensor, ...],
    c2w: Tensor,
    size: int,
    settings: RenderSettings,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Pictures (V, 3, S, S) in [0, 1] and distances (V, S, S) of one scene, on the CPU."""
    rays_o, rays_d = scene_rays(c2w, size, model.config.camera.fov_deg)
    seen = model.render(levels, rays_o, rays_d, settings=settings, seed=seed)
    pictures = model.pictures(seen)[0].movedim(-1, 1).clamp(0.0, 1.0)
    return pictures.float().cpu(), seen.depth[0].float().cpu()


def _masked_psnr(pictures: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """PSNR (n, V) over the pixels (n, V, S, S) that count."""
    error = (pictures - truth).square().mean(2) * inside
    mse = error.sum((-1, -2)) / inside.sum((-1, -2)).clamp(min=1)
    return -10.0 * mse.clamp_min(1e-10).log10()


def scene_grid(scenes: SceneSet, result: SceneResult, rows: int = 6) -> Tensor:
    """Input, rendering, known and rendered depth side by side, one scene per row (3, H, W)."""
    low, high = (float(x) for x in np.percentile(scenes.distance.numpy(), (1, 99)))
    span = max(high - low, math.ulp(1.0))

    def grey(distance: Tensor) -> Tensor:
        return (1.0 - (distance - low) / span).clamp(0.0, 1.0).expand(3, -1, -1)

    lines = [
        torch.cat(
            [
                scenes.batch.images[i],
                result.pictures[i],
                grey(scenes.distance[i]),
                grey(result.distance[i]),
            ],
            dim=2,
        )
        for i in range(min(rows, len(result.pictures)))
    ]
    return torch.cat(lines, dim=1)
