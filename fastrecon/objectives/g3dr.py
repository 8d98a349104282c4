"""Training f_trigen from single pictures with depth (G3DR, sections 3 to 6 of its supplement).

Every step looks at all its scenes from one kind of view: the canonical one, whose picture and depth
are known, or a novel one, which must only be plausible. On the canonical view gradients far from
the known depth are scaled down, the depth kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fastrecon_kernels import RaySamples, Rendering, sample_rays
from torch import Tensor

from ..config.g3dr import G3DRConfig, G3DRLossConfig, SceneCameraConfig
from ..data.rgbd import RGBDBatch
from ..losses import psnr_from_mse
from ..models.trigen import TriGen
from ..scene_cameras import depth_to_distance, scene_c2w, scene_rays
from .supervised import render_seed

AROUND = 0.05
"""Samples around a known depth lie within this distance of it, scene units."""
KL_WIDTH = math.sqrt(0.03 / 2)
"""Standard deviation of the surface in DS-NeRF's loss, matched to the kernel's width."""
KL_EPS = 1e-5
DEEP_LAYERS = (3, 4)
"""The fourth and fifth of the layers that LPIPS compares."""
HALF = 0.5
_VIEW, _POSES, _RENDER = range(1, 4)  # separate random streams


class View(NamedTuple):
    """What a step looks at."""

    novel: bool
    around_depth: bool
    """Fine samples lie around the known depth."""


def choose_view(loss: G3DRLossConfig, seed: int, step: int, steps: int) -> View:
    """The view of a step (from 0), the same in all processes of a run (supplement, Eq. 1).

    Canonical if r > min(tau, 2 step / steps), r uniform in [0, 1).
    """
    generator = torch.Generator().manual_seed(render_seed(seed, step, _VIEW))
    r, around = torch.rand(2, generator=generator).tolist()
    novel = r <= min(loss.novel, 2.0 * step / steps)
    return View(novel and step > 0, not novel and around < loss.around_depth)


def yaw_limit(camera: SceneCameraConfig, step: int, steps: int) -> float:
    """Largest novel yaw at a step, radians: pi/den, den linear over the first ``yaw_share``."""
    first, last = camera.yaw_den
    progress = min(step / max(camera.yaw_share * steps, 1.0), 1.0)
    return math.pi / (first + (last - first) * progress)


def ramp(value: float, start: float, step: int, length: float) -> float:
    """From ``start`` at step 0 linearly to ``value`` at ``length`` and after."""
    return value if length <= 0 else start + (value - start) * min(step / length, 1.0)


class G3DRObjective:
    """The loss of a batch of RGB-D pictures.

    Args:
        cfg: ``cfg.loss`` has the weights and schedules, ``cfg.networks`` the judges.
        device: where the judges are to work.
        common_seed: of what all processes of a run must agree on; ``cfg.run.seed`` if None.

    Raises:
        WeightsError, ImportError: a network that a weight asks for cannot be had.
    """

    def __init__(
        self,
        cfg: G3DRConfig,
        device: torch.device | str = "cpu",
        common_seed: int | None = None,
    ) -> None:
        self.loss, self.camera = cfg.loss, cfg.model.camera
        self.size, self.steps = cfg.model.size, cfg.optim.steps
        self.seed = cfg.run.seed
        self.common_seed = cfg.run.seed if common_seed is None else common_seed
        self.bf16 = cfg.optim.precision == "bf16"
        self.perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
        self.deep: Callable[..., Tensor] | None = None
        self.clip: Any = None
        if self.loss.perceptual:
            from ..perceptual import build_perceptual

            self.perceptual = build_perceptual(cfg.networks, device)
        if self.loss.deep:
            from ..perceptual import load_lpips

            self.deep = load_lpips(cfg.networks, device)
        if self.loss.clip or self.loss.clip_canonical:
            from ..perceptual import load_clip

            self.clip = load_clip(cfg.networks, device)

    def __call__(
        self, model: TriGen, batch: RGBDBatch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar with gradient) and detached scalars to log, without a host sync."""
        view = choose_view(self.loss, self.common_seed, step, self.steps)
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.bf16):
            planes = model.encode(batch.images, batch.depth)
        planes = planes.float() if planes.device.type == "cpu" else planes
        found = self._novel if view.novel else self._canonical
        terms, metrics = found(model, planes, batch, view, step)
        opacity = ramp(self.loss.opacity, 0.0, step, self.loss.opacity_ramp * self.steps)
        weights = self._weights(step) | {"opacity": opacity}
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        kind = "novel" if view.novel else "canonical"
        metrics |= {"loss": loss} | {f"{kind}_{name}": term for name, term in terms.items()}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _weights(self, step: int) -> dict[str, float]:
        loss, half = self.loss, step >= HALF * self.steps
        late = step >= loss.perceptual_from * self.steps
        return {
            "rgb": loss.rgb,
            "depth": loss.depth,
            "depth_kl": loss.depth_kl,
            "perceptual": loss.perceptual if late else 0.0,
            "clip": ramp(loss.clip, loss.clip_start, step, loss.clip_ramp) if loss.clip else 0.0,
            "clip_canonical": loss.clip_canonical if half else 0.0,
            "tv": loss.tv,
            "deep": loss.deep,
        }

    def _canonical(
        self, model: TriGen, planes: Tensor, batch: RGBDBatch, view: View, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The known view: colour and depth as they are."""
        loss, weights = self.loss, self._weights(step)
        target, depth = self._targets(batch)
        c2w = scene_c2w(0.0, 0.0, self.camera.radius).to(planes.device)
        rays_o, rays_d = scene_rays(c2w.expand(len(target), 4, 4), self.size, self.camera.fov_deg)
        seed = render_seed(self.seed, step, _RENDER)
        ts = around_depth(model, rays_o, rays_d, depth, seed) if view.around_depth else None
        seen = model.render(
            planes,
            rays_o,
            rays_d,
            ts=ts,
            depth_prior=depth if loss.depth_kernel else None,
            per_sample=bool(loss.depth_kl),
            seed=seed,
        )
        pictures = _pictures(model, seen)
        low, high = model.config.render.rgb_range
        terms = {
            # in the renderer's own range, as published
            "rgb": (high - low) * (pictures - target).abs().mean(),
            "depth": (seen.depth - depth).abs().mean(),
            "opacity": (1.0 - seen.opacity).mean(),
        }
        if loss.depth_kl:
            assert seen.samples is not None
            terms["depth_kl"] = depth_kl(seen.samples, depth)
        if self.perceptual is not None and weights["perceptual"]:
            terms["perceptual"] = self.perceptual(pictures.clamp(0.0, 1.0), target).mean()
        if weights["clip_canonical"]:
            terms["clip_canonical"] = self._clip(pictures, target)
        return terms, {"psnr": psnr_from_mse((pictures - target).detach().square().mean())}

    def _novel(
        self, model: TriGen, planes: Tensor, batch: RGBDBatch, view: View, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A view that nobody knows: like the input to those who judge, and smooth in depth."""
        weights = self._weights(step)
        target, _ = self._targets(batch)
        generator = torch.Generator().manual_seed(render_seed(self.seed, step, _POSES))
        u = 2.0 * torch.rand(2, len(target), generator=generator) - 1.0
        yaw = yaw_limit(self.camera, step, self.steps) * u[0]
        c2w = scene_c2w(yaw, math.radians(self.camera.pitch_deg) * u[1], self.camera.radius)
        cameras = c2w.to(planes.device, non_blocking=True)
        rays_o, rays_d = scene_rays(cameras, self.size, self.camera.fov_deg)
        seen = model.render(planes, rays_o, rays_d, seed=render_seed(self.seed, step, _RENDER))
        pictures = _pictures(model, seen)
        terms = {"tv": depth_tv(seen.depth), "opacity": (1.0 - seen.opacity).mean()}
        if weights["clip"]:
            terms["clip"] = self._clip(pictures, target)
        if self.deep is not None:
            deep = self.deep(pictures.clamp(0.0, 1.0), target, layers=DEEP_LAYERS)
            terms["deep"] = deep.mean()
        return terms, {}

    def _targets(self, batch: RGBDBatch) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, S, S) in [0, 1] and distances (B, S, S) at the rendered size."""
        size = (self.size, self.size)
        resize = torch.nn.functional.interpolate
        images, depth = (
            x
            if x.shape[-2:] == size
            else resize(x, size, mode="bilinear", align_corners=False, antialias=True)
            for x in (batch.images, batch.depth)
        )
        return images, depth_to_distance(depth[:, 0], self.camera.depth_range)

    def _clip(self, pictures: Tensor, target: Tensor) -> Tensor:
        """Mean L1 between CLIP's embeddings, not normalised."""
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=self.bf16):
            with torch.no_grad():
                wanted = self.clip.embed(target)
            found = self.clip.embed(pictures.clamp(0.0, 1.0))
        return (found - wanted).abs().mean()


def _pictures(model: TriGen, rendering: Rendering) -> Tensor:
    """(B, 3, H, W) in [0, 1], up to padding."""
    return model.pictures(rendering).movedim(-1, 1)


def around_depth(model: TriGen, rays_o: Tensor, rays_d: Tensor, depth: Tensor, seed: int) -> Tensor:
    """Coarse samples as usual and the fine ones evenly around a known depth ``(B, ...)``, sorted.

    Returns:
        ts (B, ..., n_samples + n_importance).
    """
    render = model.config.render
    coarse, _ = sample_rays(rays_o, rays_d, render, seed=seed)
    offsets = torch.linspace(-AROUND, AROUND, max(render.n_importance, 1), device=depth.device)
    return torch.cat([coarse, depth[..., None] + offsets], dim=-1).sort(dim=-1).values


def depth_kl(samples: RaySamples, depth: Tensor) -> Tensor:
    """DS-NeRF's loss: ``-sum log(w_i + 1e-5) exp(-(t_i - d)^2 / (2 s^2)) delta_i``, mean over rays.

    Args:
        samples: weights, ts and deltas (B, ..., M).
        depth: (B, ...) known distance.
    """
    surface = (-(samples.ts - depth[..., None]).square() / (2.0 * KL_WIDTH**2)).exp()
    terms = (samples.weights + KL_EPS).log() * surface * samples.deltas
    return -terms.sum(-1).mean()


def depth_tv(depth: Tensor) -> Tensor:
    """Mean squared step between neighbouring pixels of depth maps (B, H, W), rows plus columns."""
    return depth.diff(dim=-2).square().mean() + depth.diff(dim=-1).square().mean()
