"""FID and IS of scenes seen from random sides, as EG3D's protocol has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from ...config.g3dr import SceneCameraConfig
from ...models.super_resolution import Upscaler
from ...models.trigen import TriGen
from ...scene_cameras import scene_c2w, scene_rays
from ..fid import FEWEST, Fid, Network, frechet_distance
from ..inception_score import SPLITS, InceptionScore, inception_score
from .sources import SceneSource, chunks

SIDES_STREAM = 0x51DE
"""Mixed into the seed of the views."""


@dataclass(frozen=True)
class SideScores:
    """What Inception says of one model at one density scale."""

    fid: Fid | None
    inception: InceptionScore | None


class _Found:
    """Features and class scores, chunk by chunk."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []
        self.logits: list[Tensor] = []

    def add(self, found: tuple[Tensor, ...]) -> None:
        self.features.append(found[0].float().cpu())
        self.logits.append(found[1].float().cpu())

    @property
    def count(self) -> int:
        return sum(len(part) for part in self.features)


def random_sides(camera: SceneCameraConfig, first: int, count: int, seed: int = 0) -> Tensor:
    """Cameras ``(count, 4, 4)``: yaw and pitch uniform as at the end of training.

    Number ``first + k`` is a function of it and the seed.
    """
    angles = []
    for place in range(first, first + count):
        generator = torch.Generator().manual_seed((seed ^ SIDES_STREAM) * 1_000_003 + place)
        angles.append(2 * torch.rand(2, generator=generator) - 1)
    yaw, pitch = torch.stack(angles).unbind(1)
    return scene_c2w(
        yaw * math.pi / camera.yaw_den[1], pitch * math.radians(camera.pitch_deg), camera.radius
    )


@torch.no_grad()
def judge_sides(
    models: Mapping[str, TriGen],
    source: SceneSource,
    scales: tuple[float, ...],
    network: Network,
    count: int,
    *,
    upscaler: Upscaler | None = None,
    seed: int = 0,
) -> dict[tuple[str, float], SideScores]:
    """Render one random side of each of ``count`` scenes and compare with real pictures.

    Every model and scale sees the same scenes from the same sides.

    Args:
        network: Inception's features and logits, of `load_layers`.
        upscaler: what renderings go through first.

    Returns:
        Scores by model and scale; a score that needs more pictures than there are is None.
    """
    found = {(name, scale): _Found() for name in models for scale in scales}
    real = {name: _Found() for name in models}
    places = chunks(min(count, len(source)))
    for first, size in tqdm(places, desc="random sides", leave=False, disable=None):
        for name, model in models.items():
            camera, device = model.config.camera, next(model.parameters()).device
            inputs = source.batch(first, size, model.config)
            if not len(inputs.images):
                continue
            references = source.references(inputs, first)
            if references is not None and len(references):
                real[name].add(network(references))
            c2w = random_sides(camera, first, len(inputs.images), seed).to(device)
            rays_o, rays_d = scene_rays(c2w, model.config.size, camera.fov_deg)
            levels = model.pyramid(
                model.encode(inputs.images.to(device), inputs.depth.to(device)).float()
            )
            for scale in scales:
                render = model.config.render
                settings = replace(render, density_scale=render.density_scale * scale)
                seen = model.render(levels, rays_o, rays_d, settings=settings, seed=seed)
                pictures = model.pictures(seen).movedim(-1, 1).float().clamp(0.0, 1.0)
                if upscaler is not None:
                    pictures = upscaler(pictures)
                found[name, scale].add(network(pictures))
    return {(name, scale): _scores(of, real[name]) for (name, scale), of in found.items()}


def _scores(found: _Found, real: _Found) -> SideScores:
    fid, score = None, None
    if min(found.count, real.count) >= FEWEST:
        features, others = (torch.cat(x.features).numpy() for x in (found, real))
        fid = Fid(frechet_distance(features, others), found.count, real.count)
    if found.count >= SPLITS:
        score = inception_score(torch.cat(found.logits))
    return SideScores(fid, score)
