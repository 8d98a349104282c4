"""L_RECON: render views whose pictures are known and compare (Real3D, section 3.1, Eq. 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from fastrecon_kernels import Rendering
from torch import Tensor

from ..config import Config
from ..data.stream import Batch
from ..losses import depth_l1, mask_mse, psnr_from_mse, rgb_mse
from ..models.lrm import LRM

Term = Callable[[Rendering, Batch], Tensor]

TERMS: dict[str, Term] = {
    "rgb": lambda rendering, batch: rgb_mse(rendering.rgb, batch.rgb),
    "mask": lambda rendering, batch: mask_mse(rendering.opacity, batch.mask),
    "depth": lambda rendering, batch: depth_l1(rendering.depth, batch.depth, batch.mask),
}
"""Every supervised term, by the name of its weight in ``LossConfig``."""


class Supervised:
    """The loss of one batch with known views: a weighted sum of ``TERMS``.

    Args:
        cfg: ``cfg.loss`` holds the weights (0 turns a term off), ``cfg.optim.precision`` the
            network's autocast, ``cfg.run.seed`` seeds the samples along the rays.
    """

    def __init__(self, cfg: Config) -> None:
        self.weights = {name: getattr(cfg.loss, name) for name in TERMS}
        self.weights = {name: weight for name, weight in self.weights.items() if weight}
        if not self.weights:
            raise ValueError(
                "every loss weight is 0, so there is nothing to learn; set --loss.rgb 1"
            )
        self.bf16 = cfg.optim.precision == "bf16"
        render = cfg.model.render
        self.settings = replace(render, stratified=render.stratified or cfg.data.jitter)
        self.seed = cfg.run.seed

    def __call__(self, model: LRM, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar with gradient) and detached scalars to log, without a host sync.

        Rays of all V views ``(B, V, R, 3)`` go through one ``render_rays`` call. The seed of a
        step depends on nothing but ``(run.seed, step)``, which makes a resumed run exact.
        """
        planes = encode(model, batch.images, bf16=self.bf16)
        rendering = model.render(
            planes,
            batch.rays_o,
            batch.rays_d,
            settings=self.settings,
            seed=render_seed(self.seed, step),
        )
        terms = {name: TERMS[name](rendering, batch) for name in self.weights}
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        metrics = {"loss": loss, **{f"loss_{name}": term for name, term in terms.items()}}
        metrics["psnr"] = psnr_from_mse(rgb_mse(rendering.rgb.detach(), batch.rgb))
        return loss, {name: value.detach() for name, value in metrics.items()}


def encode(model: LRM, images: Tensor, *, bf16: bool) -> Tensor:
    """Planes ``(B, 3, C, P, P)`` of images ``(B, 3, H, W)``, the network under bf16 autocast.

    On CUDA the planes keep the autocast's dtype, from which the renderer takes its own precision;
    on the CPU they are fp32, because rendering there computes in at least that anyway.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        planes = model.encode(images)
    return planes.float() if images.device.type == "cpu" else planes


def render_seed(seed: int, step: int) -> int:
    """One seed per (run, step): distinct for the first billion steps, below 2^63."""
    return (seed * 1_000_000_007 + step) % (1 << 63)
