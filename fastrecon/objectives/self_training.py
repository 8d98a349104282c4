"""L_SELF: learning from single pictures (Real3D, section 4.1, Eq. 2-10).

Three terms on a picture I and its triplane T = LRM(I): L_in renders I's own view; L_pix renders a
novel view, takes it for a picture, reconstructs that and looks back from the inverse pose; L_sem
asks CLIP whether novel views show the same thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from fastrecon_kernels import Rendering, RenderSettings
from torch import Tensor

from ..cameras import camera_rays, camera_vector, view_back
from ..config import Config
from ..images import on_background
from ..losses import clip_similarity_loss, hardest_view, mask_mse, psnr_from_mse, rgb_mse
from ..models.lrm import LRM
from ..renderer import EARLY_STOP
from .poses import canonical_pose, curriculum_limit, cycle_poses, semantic_poses
from .supervised import encode, render_seed

WHITE = 1.0
SOLID = 0.5
"""Opacity above this is the object, where the novel view is cut out hard (public code)."""
_POSES, _INPUT, _NOVEL, _BACK, _SEARCH, _SEMANTIC = range(1, 7)  # separate random streams


class SelfTraining:
    """The loss of P single pictures.

    Args:
        cfg: ``cfg.self_training`` has the weights and the poses, ``cfg.networks`` says which
            networks judge pictures, ``cfg.optim.steps`` is the curriculum's length.
        device: where those networks are to work.

    Raises:
        WeightsError, ImportError: a network that the weights ask for cannot be had.
    """

    def __init__(self, cfg: Config, device: torch.device | str = "cpu") -> None:
        self.task = cfg.self_training
        self.steps = cfg.optim.steps
        self.seed = cfg.run.seed
        self.bf16 = cfg.optim.precision == "bf16"
        self.render = cfg.model.render
        self.background = cfg.model.input_background
        self.is_told = cfg.model.backbone.conditioning != "none"
        self.learning = replace(self.render, stratified=self.render.stratified or cfg.data.jitter)
        """Settings of the pictures that gradients come from; those that are only looked at are
        rendered as in use."""
        self.perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
        self.clip: Callable[[Tensor], Tensor] | None = None
        if self.task.cycle_perceptual:
            from ..perceptual import build_perceptual

            self.perceptual = build_perceptual(cfg.networks, device)
        if self.task.semantic:
            from ..perceptual import load_clip

            self.clip = load_clip(cfg.networks, device)

    def __call__(self, model: LRM, photos: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar with gradient) and detached scalars to log, without a host sync.

        Args:
            photos: ``(P, 4, S, S)`` premultiplied, see ``data.photo_batch``.
            step: from 0; with the run's seed it decides every draw.
        """
        task = self.task
        generator = torch.Generator().manual_seed(render_seed(self.seed, step, _POSES))
        limit = curriculum_limit(task, step, self.steps)
        novel = cycle_poses(task, len(photos), limit, generator)
        semantic = semantic_poses(task, novel, generator)

        picture = F.interpolate(
            photos, (task.size, task.size), mode="bilinear", align_corners=False, antialias=True
        )
        planes = self._encode(model, on_background(photos, self.background))
        pixels = self._pixels(len(photos), generator)
        terms, metrics = self._input_terms(model, planes, picture, pixels, step)
        if task.cycle_rgb or task.cycle_mask or task.cycle_perceptual:
            found, measured = self._cycle_terms(model, planes, picture, pixels, novel, step)
            terms, metrics = terms | found, metrics | measured
        if self.clip is not None:
            terms["semantic"] = self._semantic_term(model, planes, photos, semantic, step)
        weighted = [getattr(task, name) * term for name, term in terms.items()]
        loss = torch.stack(weighted).sum()
        metrics |= {f"self_{name}": term for name, term in terms.items()} | {"self_loss": loss}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _input_terms(
        self, model: LRM, planes: Tensor, picture: Tensor, pixels: Tensor | None, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L_in (after Eq. 10): the picture's own view."""
        task = self.task
        if not (task.input_rgb or task.input_mask):
            return {}, {}
        canonical = canonical_pose(task).expand(len(picture), 4, 4)
        seed = self._seed(step, _INPUT)
        seen = self._view(model, planes, canonical, self.learning, seed, pixels=pixels)
        terms = _compared(seen, _pixels_of(picture, pixels), "input", task.input_mask)
        return terms, {"psnr_input": psnr_from_mse(terms["input_rgb"].detach())}

    def _cycle_terms(
        self,
        model: LRM,
        planes: Tensor,
        picture: Tensor,
        pixels: Tensor | None,
        novel: Tensor,
        step: int,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L_pix (Eq. 3 and 4): to a novel view and back."""
        task = self.task
        with torch.set_grad_enabled(not task.stop_gradient and torch.is_grad_enabled()):
            start = planes.detach() if task.stop_gradient else planes
            image = self._novel_image(model, start, novel, step)
        again = self._encode(model, image)
        back, seed = view_back(novel, canonical_pose(task)), self._seed(step, _BACK)
        seen = self._view(model, again, back, self.learning, seed, pixels=pixels)
        terms = _compared(seen, _pixels_of(picture, pixels), "cycle", task.cycle_mask)
        if self.perceptual is not None:
            target = on_background(picture, WHITE)
            terms["cycle_perceptual"] = self.perceptual(_pictures(seen), target).mean()
        return terms, {"psnr_cycle": psnr_from_mse(terms["cycle_rgb"].detach())}

    def _novel_image(self, model: LRM, planes: Tensor, novel: Tensor, step: int) -> Tensor:
        """The novel view as the model reads pictures: on grey, cut out by the rendered density."""
        task = self.task
        size = task.cycle_size or task.size
        seen = self._view(model, planes, novel, self.render, self._seed(step, _NOVEL), size)
        white, opacity = _pictures(seen), seen.opacity[:, None]
        if task.cycle_size:
            return torch.where(opacity > SOLID, white, self.background)
        return (white + (self.background - WHITE) * (1.0 - opacity)).clamp(0.0, 1.0)

    def _semantic_term(
        self, model: LRM, planes: Tensor, photos: Tensor, cameras: Tensor, step: int
    ) -> Tensor:
        """L_sem (Eq. 7 and 9): minus the similarity of the hardest view, or of all of them."""
        task = self.task
        with torch.no_grad():
            wanted = self._features(on_background(photos, WHITE))
        cameras = cameras.to(planes.device, non_blocking=True)
        if task.semantic_hardest and task.semantic_views > 1:
            with torch.no_grad():
                quick = replace(self.render, early_stop=self.render.early_stop or EARLY_STOP)
                seed = self._seed(step, _SEARCH)
                seen = self._view(model, planes.detach(), cameras, quick, seed)
                features = self._features(_pictures(seen).flatten(0, 1))
                similarity = (features.unflatten(0, cameras.shape[:2]) * wanted[:, None]).sum(-1)
                hardest = hardest_view(similarity)
            cameras = cameras[torch.arange(len(cameras), device=cameras.device), hardest][:, None]
        seen = self._view(model, planes, cameras, self.learning, self._seed(step, _SEMANTIC))
        features = self._features(_pictures(seen).flatten(0, 1)).unflatten(0, cameras.shape[:2])
        return clip_similarity_loss(features, wanted[:, None].expand_as(features)).mean()

    def _encode(self, model: LRM, images: Tensor) -> Tensor:
        """Planes; a pose-conditioned model is told the camera that pictures are taken to have."""
        told = None
        if self.is_told:
            camera = camera_vector(canonical_pose(self.task), self.task.fov_deg)
            told = camera.to(images.device, non_blocking=True).expand(len(images), -1)
        return encode(model, images, told, bf16=self.bf16)

    def _features(self, pictures: Tensor) -> Tensor:
        """CLIP's unit features (N, D)."""
        assert self.clip is not None
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=self.bf16):
            return self.clip(pictures).float()

    def _view(
        self,
        model: LRM,
        planes: Tensor,
        c2w: Tensor,
        settings: RenderSettings,
        seed: int,
        size: int = 0,
        pixels: Tensor | None = None,
    ) -> Rendering:
        """Whole pictures from cameras (P, ..., 4, 4): (P, ..., H, W, ...).

        With ``pixels`` (P, R) only those of one picture each: (P, 1, R, ...).
        """
        side = size or self.task.size
        cameras = c2w.to(planes.device, non_blocking=True)
        rays_o, rays_d = camera_rays(cameras, side, side, self.task.fov_deg)
        if pixels is not None:
            rays_o, rays_d = (
                _pixels_of(x.movedim(-1, 1), pixels).movedim(1, -1) for x in (rays_o, rays_d)
            )
        return model.render(planes, rays_o, rays_d, settings=settings, seed=seed)

    def _pixels(self, count: int, generator: torch.Generator) -> Tensor | None:
        """Random pixels (P, R) of every picture, none twice; None: all of them."""
        if not self.task.rays:
            return None
        order = torch.rand(count, self.task.size**2, generator=generator).argsort(dim=1)
        return order[:, : self.task.rays]

    def _seed(self, step: int, stream: int) -> int:
        return render_seed(self.seed, step, stream)


def _pictures(rendering: Rendering) -> Tensor:
    """Rendered colours on white as pictures (..., 3, H, W) in [0, 1]."""
    return rendering.rgb.movedim(-1, -3).clamp(0.0, 1.0)


def _pixels_of(picture: Tensor, pixels: Tensor | None) -> Tensor:
    """Pixels (P, R) of pictures (P, C, H, W) as pictures of one row (P, C, 1, R)."""
    if pixels is None:
        return picture
    index = pixels.to(picture.device, non_blocking=True)[:, None].expand(-1, picture.shape[1], -1)
    return picture.flatten(2).gather(2, index)[:, :, None]


def _compared(
    rendering: Rendering, picture: Tensor, name: str, mask_weight: float
) -> dict[str, Tensor]:
    """MSE to a premultiplied picture (P, 4, H, W) on white, and of the mask where it counts."""
    target = on_background(picture, WHITE).movedim(1, -1)
    terms = {f"{name}_rgb": rgb_mse(rendering.rgb, target)}
    if mask_weight:
        terms[f"{name}_mask"] = mask_mse(rendering.opacity, picture[:, 3])
    return terms
