"""Training the diffusion on a frozen autoencoder's latents: the noise is to be told (DDPM)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..config.rgbd import RGBDDiffusionConfig
from ..data.rgbd import RGBDBatch
from ..models.rgbd import RGBDDiffusion
from .supervised import render_seed

_DRAWS = 2  # a random stream


class Draws(NamedTuple):
    """What a step draws, a function of (seed, step)."""

    posterior: Tensor  # (B, C, s, s) standard normal: which latents a picture has
    noise: Tensor  # (B, C, s, s) standard normal: what is to be predicted
    steps: Tensor  # (B,) uniform in [0, noise steps)
    dropped: Tensor  # (B,) bool: the condition is replaced by the null one


class DiffusionObjective:
    """The loss of a batch of RGB-D pictures with labels."""

    def __init__(self, cfg: RGBDDiffusionConfig) -> None:
        self.dropout, self.seed = cfg.loss.label_dropout, cfg.run.seed
        self.bf16 = cfg.optim.precision == "bf16"
        latent = cfg.model.autoencoder
        self.shape = (latent.latent_channels, latent.latent_size, latent.latent_size)
        self.noise_steps = cfg.model.noise_steps

    def draws(self, count: int, step: int) -> Draws:
        """The random numbers of a step for ``count`` pictures."""
        generator = torch.Generator().manual_seed(render_seed(self.seed, step, _DRAWS))
        posterior, noise = torch.randn(2, count, *self.shape, generator=generator)
        return Draws(
            posterior,
            noise,
            torch.randint(self.noise_steps, (count,), generator=generator),
            torch.rand(count, generator=generator) < self.dropout,
        )

    def __call__(
        self, model: RGBDDiffusion, batch: RGBDBatch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar with gradient) and detached scalars to log, without a host sync."""
        device = batch.images.device
        drawn = Draws(*(x.to(device) for x in self.draws(len(batch.images), step)))
        labels = batch.labels.masked_fill(drawn.dropped, model.null)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            latents = model.encode(batch.images, batch.depth, drawn.posterior)
            noisy = model.add_noise(latents, drawn.noise, drawn.steps)
            found = model.predict(noisy, drawn.steps, model.condition(labels))
        loss = (found.float() - drawn.noise).square().mean()
        return loss, {"loss": loss.detach()}
