"""The first stage of f_rgb: RGB-D pictures to latents an eighth of the side, and back.

diffusers' ``AutoencoderKL`` (Rombach et al. 2022) on four channels, RGB and depth together, so that
one latent holds what goes together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrecon.config.rgbd import AutoencoderConfig
from fastrecon.interop.checkpoints import config_to_dict
from fastrecon.interop.pretrained import write_pretrained
from fastrecon.models.trigen_checks import check_rgbd

from .checks import check_autoencoder_config
from .critic import Critic
from .files import filled, read_folder
from .libraries import import_diffusers

FORMAT = "fastrecon-rgbd-autoencoder"
RGBD = 4
"""Channels of a picture."""
CRITIC = "critic."


class Posterior(NamedTuple):
    """A normal distribution of latents, fp32."""

    mean: Tensor  # (B, C, s, s)
    log_variance: Tensor  # (B, C, s, s)

    def sample(self, noise: Tensor) -> Tensor:
        """Latents for standard normal ``noise`` of their shape; differentiable."""
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def kl(self) -> Tensor:
        """KL divergence to the standard normal, ``(B,)``, summed over the latents."""
        mean, log_variance = self
        terms = mean.square() + log_variance.exp() - 1.0 - log_variance
        return 0.5 * terms.flatten(1).sum(1)


class RGBDAutoencoder(nn.Module):
    """``encode`` pictures with depth to latents, ``decode`` latents.

    Pictures are ``(B, 3, H, W)`` in [0, 1] and depth ``(B, 1, H, W)`` in [0, 1], 0 near.
    """

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = AutoencoderConfig() if config is None else config
        check_autoencoder_config(config)
        stages = len(config.widths)
        self.network = import_diffusers().AutoencoderKL(
            in_channels=RGBD,
            out_channels=RGBD,
            down_block_types=("DownEncoderBlock2D",) * stages,
            up_block_types=("UpDecoderBlock2D",) * stages,
            block_out_channels=config.widths,
            layers_per_block=config.layers,
            norm_num_groups=config.groups,
            latent_channels=config.latent_channels,
            sample_size=config.size,
        )
        self.critic: Critic | None = None
        """The discriminator; None with ``critic_width`` 0."""
        if config.critic_width:
            self.critic = Critic(RGBD, config.critic_width, config.critic_layers)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the decoder's last convolution, where gradients of terms are compared."""
        return self.network.decoder.conv_out.weight

    def joined(self, images: Tensor, depth: Tensor) -> Tensor:
        """Pictures and depth as the network reads them, ``(B, 4, size, size)`` in [-1, 1].

        Raises:
            ValueError, TypeError: wrong shape or dtype; on a CPU also values out of [0, 1].
        """
        check_rgbd(images, depth)
        both = torch.cat([self._resized(images), self._resized(depth)], dim=1)
        return 2.0 * both - 1.0

    def _resized(self, pictures: Tensor) -> Tensor:
        size = (self.config.size, self.config.size)
        pictures = pictures.float()
        if pictures.shape[-2:] != size:
            pictures = F.interpolate(
                pictures, size, mode="bilinear", align_corners=False, antialias=True
            )
        return pictures.clamp(0.0, 1.0)

    def posterior(self, joined: Tensor) -> Posterior:
        """The distribution of latents of what `joined` made."""
        found = self.network.encode(joined).latent_dist
        return Posterior(found.mean.float(), found.logvar.float())

    def encode(self, images: Tensor, depth: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents ``(B, C, s, s)``: the posterior's mean, or its sample for standard ``noise``."""
        found = self.posterior(self.joined(images, depth))
        return found.mean if noise is None else found.sample(noise)

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Pictures with depth ``(B, 4, size, size)`` in [-1, 1], not clamped, for losses."""
        return self.network.decode(latents).sample

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures ``(B, 3, size, size)`` and depth ``(B, 1, size, size)`` in [0, 1]."""
        both = (0.5 * self.reconstruct(latents).float() + 0.5).clamp(0.0, 1.0)
        return both[:, :3], both[:, 3:]

    def forward(self, images: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """``decode(encode(images, depth))``."""
        return self.decode(self.encode(images, depth))

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> RGBDAutoencoder:
        """A model in eval mode from a folder that ``save_pretrained`` wrote, or a hub id.

        Raises:
            CheckpointError: a missing, damaged, hostile or foreign file.
            ImportError: no diffusers, or a hub id without huggingface_hub.
        """
        config, tensors = read_folder(source, AutoencoderConfig(), FORMAT, revision=revision)
        return cls.from_tensors(config, tensors).to(device)

    @classmethod
    def from_tensors(
        cls, config: AutoencoderConfig, tensors: Mapping[str, Tensor]
    ) -> RGBDAutoencoder:
        """A model in eval mode with copies of ``tensors``, matched by name and shape.

        Raises:
            CheckpointError: names, shapes or values are not those of such a model.
        """
        # a block has several tensors, so this is far below the number there will be
        layers = len(config.widths) * config.layers + config.critic_layers
        return filled(lambda: cls(config), layers, tensors)

    def generator_state(self) -> dict[str, Any]:
        """The tensors without the critic's."""
        return {n: t for n, t in self.state_dict().items() if not n.startswith(CRITIC)}

    def save_pretrained(
        self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32
    ) -> None:
        """Write ``config.json`` and ``model.safetensors`` (atomic each) for ``from_pretrained``.

        Raises:
            ValueError: a dtype but float32 and float16, or weights that are not finite in it.
            CheckpointError: the folder cannot be written.
        """
        write_pretrained(folder, config_to_dict(self.config, FORMAT), self.state_dict(), dtype)
