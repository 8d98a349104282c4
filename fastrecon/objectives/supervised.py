"""L_RECON: render views whose pictures are known and compare (Real3D, section 3, Eq. 1)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from fastrecon_kernels import Rendering, RenderSettings
from torch import Tensor

from ..config import Config
from ..data.batches import Batch
from ..losses import depth_l1, mask_mse, plane_tv, psnr_from_mse, rgb_mse
from ..models.lrm import LRM

WHITE = 1.0
"""Background of a batch's colours."""
Term = Callable[[Rendering, Batch], Tensor]
Judge = Callable[[Tensor, Tensor], Tensor]
"""Pictures and their targets (N, 3, H, W) to distances (N,)."""

TERMS: dict[str, Term] = {
    "rgb": lambda rendering, batch: rgb_mse(rendering.rgb, batch.rgb),
    "mask": lambda rendering, batch: mask_mse(rendering.opacity, batch.mask),
    "depth": lambda rendering, batch: depth_l1(rendering.depth, batch.depth, batch.mask),
}
"""Terms on rays, by the names of their weights in ``LossConfig``; "perceptual" is on pictures and
"tv" on planes."""


class Supervised:
    """The loss of one batch with known views: a weighted sum of ``TERMS``, and of "perceptual".

    Args:
        cfg: ``cfg.loss`` holds the weights (0 turns a term off), ``cfg.optim.precision`` the
            network's autocast, ``cfg.run.seed`` seeds the samples along the rays.
        device: where the perceptual network is to work.

    Raises:
        WeightsError, ImportError: the perceptual network cannot be had.
    """

    def __init__(self, cfg: Config, device: torch.device | str = "cpu") -> None:
        self.weights = {name: weight for name, weight in asdict(cfg.loss).items() if weight}
        if not self.weights:
            raise ValueError(
                "every loss weight is 0, so there is nothing to learn; set --loss.rgb 1"
            )
        self.perceptual: Judge | None = None
        if cfg.loss.perceptual:
            from ..perceptual import build_perceptual

            self.perceptual = build_perceptual(cfg.networks, device)
        self.bf16 = cfg.optim.precision == "bf16"
        render = cfg.model.render
        self.settings = replace(render, stratified=render.stratified or cfg.data.jitter)
        self.backgrounds = cfg.data.backgrounds
        self.seed = cfg.run.seed

    def __call__(self, model: LRM, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar with gradient) and detached scalars to log, without a host sync.

        Rays of all V views ``(B, V, R, 3)`` go through one ``render_rays`` call. The seed of a
        step depends on nothing but ``(run.seed, step)``, which makes a resumed run exact.
        """
        planes = encode(model, batch.images, batch.cameras, bf16=self.bf16)
        settings, batch = self._on_background(batch, step)
        # On a GPU neighbours in a picture add to the planes together; single rays have none.
        batch_size, views, rays = batch.rays_o.shape[:3]
        side = batch.picture_size
        shape = (batch_size, views, side, side) if side else (batch_size, views * rays)
        rendering = model.render(
            planes,
            batch.rays_o.reshape(*shape, 3),
            batch.rays_d.reshape(*shape, 3),
            settings=settings,
            seed=render_seed(self.seed, step),
        )
        rendering = Rendering(
            rendering.rgb.reshape(batch_size, views, rays, -1),
            rendering.opacity.reshape(batch_size, views, rays),
            rendering.depth.reshape(batch_size, views, rays),
        )
        terms = {name: self._term(name, rendering, batch, planes) for name in self.weights}
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        metrics = {"loss": loss, **{f"loss_{name}": term for name, term in terms.items()}}
        metrics["psnr"] = psnr_from_mse(rgb_mse(rendering.rgb.detach(), batch.rgb))
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _on_background(self, batch: Batch, step: int) -> tuple[RenderSettings, Batch]:
        """Settings and answers with one of ``data.backgrounds`` behind the objects."""
        levels = self.backgrounds
        level = levels[random.Random(render_seed(self.seed, step)).randrange(len(levels))]
        if level == WHITE:
            return self.settings, batch
        rgb = batch.rgb + (level - WHITE) * (1.0 - batch.mask[..., None])
        return replace(self.settings, background=(level,) * 3), replace(batch, rgb=rgb)

    def _term(self, name: str, rendering: Rendering, batch: Batch, planes: Tensor) -> Tensor:
        if name == "tv":
            return plane_tv(planes)
        if name != "perceptual":
            return TERMS[name](rendering, batch)
        assert self.perceptual is not None
        pictures, target = (
            x.flatten(0, 1).unflatten(1, (batch.picture_size,) * 2).movedim(-1, 1)
            for x in (rendering.rgb, batch.rgb)
        )
        return self.perceptual(pictures.clamp(0.0, 1.0), target).mean()


def encode(model: LRM, images: Tensor, cameras: Tensor | None = None, *, bf16: bool) -> Tensor:
    """Planes ``(B, 3, C, P, P)`` of images ``(B, 3, H, W)``, the network under bf16 autocast.

    ``cameras (B, 16)`` are for models that are told the input camera.

    On CUDA the planes keep the autocast's dtype, from which the renderer takes its own precision;
    on the CPU they are fp32, because rendering there computes in at least that anyway.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        planes = model.encode(images, cameras)
    return planes.float() if images.device.type == "cpu" else planes


def render_seed(seed: int, step: int, stream: int = 0) -> int:
    """One seed per (run, step, stream), below 2^63: distinct for a billion seeds and steps.

    ``stream`` (below 8) tells apart what one step draws for different purposes.
    """
    return (seed * 1_000_000_007 + step) % (1 << 60) + (stream << 60)
