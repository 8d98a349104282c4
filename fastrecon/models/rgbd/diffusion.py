"""The second stage of f_rgb: RGB-D pictures of a class, or of a caption, by latent diffusion.

DDPM training (Ho et al. 2020) with classifier-free guidance (Ho and Salimans 2022), DDIM sampling
(Song et al. 2021); the networks and schedules are diffusers'.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastrecon.checkpoint import CheckpointError
from fastrecon.config.rgbd import DiffusionConfig
from fastrecon.data.rgbd import class_number
from fastrecon.interop.checkpoints import config_to_dict
from fastrecon.interop.pretrained import write_pretrained

from .autoencoder import RGBDAutoencoder
from .checks import check_diffusion_config, check_sampling
from .denoiser import Denoiser
from .files import filled, read_folder
from .libraries import import_diffusers
from .text import TextTower, caption

FORMAT = "fastrecon-rgbd-diffusion"
UNCONDITIONAL = ""
"""The null condition's caption."""


class RGBDSamples(NamedTuple):
    """Generated pictures with depth."""

    images: Tensor  # (N, 3, S, S) in [0, 1]
    depth: Tensor  # (N, 1, S, S) in [0, 1], 0 near


class RGBDDiffusion(nn.Module):
    """``sample`` pictures with depth; ``encode``, ``add_noise`` and ``predict`` to train.

    The autoencoder, and the text transformer if there is one, are frozen parts of the model.
    Latents are divided by their standard deviation, which `fit_scale` measures.
    """

    latent_scale: Tensor
    _tokens: Tensor

    def __init__(self, config: DiffusionConfig | None = None) -> None:
        super().__init__()
        self.config = config = DiffusionConfig() if config is None else config
        check_diffusion_config(config)
        self.autoencoder = RGBDAutoencoder(config.autoencoder)
        self.autoencoder.requires_grad_(False)
        self.denoiser = Denoiser(config)
        self.text: TextTower | None = None
        if config.denoiser.conditioning == "text":
            self.text = TextTower(config.text)
            captions = [*map(caption, config.classes), UNCONDITIONAL]
            self.register_buffer("_tokens", self.text.tokens(captions), persistent=False)
        self.register_buffer("latent_scale", torch.ones(()))
        self.schedule = import_diffusers().DDPMScheduler(**self._schedule())

    def _schedule(self) -> dict[str, Any]:
        first, last = self.config.betas
        return {
            "num_train_timesteps": self.config.noise_steps,
            "beta_start": first,
            "beta_end": last,
            "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
            "clip_sample": False,
        }

    def ddim(self, steps: int) -> Any:
        """diffusers' DDIM scheduler with so many steps, as latent diffusion sets it up."""
        scheduler = import_diffusers().DDIMScheduler(
            **self._schedule(),
            set_alpha_to_one=False,  # a wholly clean latent is never seen in training
            steps_offset=int(steps < self.config.noise_steps),
        )
        scheduler.set_timesteps(steps)
        return scheduler

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by number."""
        return self.config.classes

    @property
    def null(self) -> int:
        """The number that stands for no class."""
        return len(self.config.classes)

    def train(self, mode: bool = True) -> RGBDDiffusion:
        """Only the denoiser learns; the frozen parts stay in evaluation mode."""
        super().train(mode)
        self.autoencoder.train(False)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor, depth: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents ``(B, C, s, s)`` of pictures and depth; see `RGBDAutoencoder.encode`."""
        return self.autoencoder.encode(images, depth, noise) / self.latent_scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> RGBDSamples:
        """Pictures and depth of scaled latents."""
        return RGBDSamples(*self.autoencoder.decode(latents * self.latent_scale))

    @torch.no_grad()
    def fit_scale(self, latents: Tensor) -> None:
        """Measure the scale: the standard deviation of unscaled ``latents``.

        Raises:
            CheckpointError: they say nothing, so the autoencoder is of no use.
        """
        scale = latents.double().std()
        if not 1e-6 < float(scale) < 1e6:
            raise CheckpointError(
                f"the autoencoder's latents have a standard deviation of {float(scale):.2g} over "
                f"{len(latents)} pictures, so it has learnt nothing; train it first, or longer"
            )
        self.latent_scale.copy_(scale)

    def add_noise(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """``sqrt(a_t) x + sqrt(1 - a_t) noise``, a_t the product of 1 - beta up to step t."""
        return self.schedule.add_noise(latents, noise, steps)

    def condition(self, labels: Tensor) -> Tensor:
        """What `predict` takes for class numbers ``(B,)``; `null` is none."""
        return labels if self.text is None else self.text(self._tokens[labels])

    def predict(self, latents: Tensor, steps: Tensor, condition: Tensor) -> Tensor:
        """The noise in noisy latents ``(B, C, s, s)`` at steps ``(B,)``."""
        return self.denoiser(latents, steps, condition)

    def guided(
        self, latents: Tensor, steps: Tensor, condition: Tensor, null: Tensor, guidance: float
    ) -> Tensor:
        """Classifier-free guidance: ``e_null + guidance (e_condition - e_null)``."""
        if guidance == 1.0:
            return self.predict(latents, steps, condition)
        twice = torch.cat([null, condition])
        found = self.predict(latents.repeat(2, 1, 1, 1), steps.repeat(2), twice)
        free, bound = found.chunk(2)
        return free + guidance * (bound - free)

    def label(self, name: int | str) -> int:
        """The number of a class.

        Raises:
            RGBDError: there is no such class; the message lists the nearest.
        """
        if isinstance(name, str):
            return class_number(self.classes, name)
        if not 0 <= name < self.null:
            raise ValueError(f"class numbers lie between 0 and {self.null - 1}, got {name}")
        return name

    def _conditions(self, labels: Sequence[int | str]) -> Tensor:
        """The condition of each; words are captions to a model that reads text."""
        device = self.latent_scale.device
        if self.text is None or not any(isinstance(label, str) for label in labels):
            numbers = torch.tensor([self.label(label) for label in labels], device=device)
            return self.condition(numbers)
        words = [
            label if isinstance(label, str) else caption(self.classes[self.label(label)])
            for label in labels
        ]
        return self.text(self.text.tokens(words).to(device))

    @torch.no_grad()
    def sample(
        self,
        labels: Sequence[int | str] | Tensor,
        n: int = 1,
        guidance: float | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> RGBDSamples:
        """``n`` pictures with depth for each label, in the labels' order.

        Args:
            labels: classes by number or name; to a model that reads text, words are captions.
            guidance: scale of classifier-free guidance, 1 for none; ``config.guidance`` if None.
            steps: of DDIM; ``config.sampling_steps`` if None.
            generator: a CPU generator. Pictures are drawn from it one after the other, so that, up
                to rounding, the first ones of a seed are the same however many follow, on any
                device.

        Raises:
            RGBDError: an unknown class; the message lists the nearest.
            ValueError: numbers out of range.
        """
        names = labels.tolist() if isinstance(labels, Tensor) else list(labels)
        guidance = self.config.guidance if guidance is None else guidance
        steps = self.config.sampling_steps if steps is None else steps
        check_sampling(self.config, guidance, steps)
        if not names or n < 1:
            raise ValueError(
                f"nothing to sample: got {len(names)} labels and n = {n}; give one and n >= 1"
            )
        latent = self.config.autoencoder
        shape = (latent.latent_channels, latent.latent_size, latent.latent_size)
        drawn = [torch.randn(shape, generator=generator) for _ in range(len(names) * n)]
        x = torch.stack(drawn).to(self.latent_scale.device)
        condition = self._conditions(names).repeat_interleave(n, 0)
        null = self.condition(torch.full((len(x),), self.null, device=x.device))
        was_training = self.training
        self.eval()
        ddim = self.ddim(steps)
        for t in ddim.timesteps:
            at = torch.full((len(x),), int(t), device=x.device)
            x = ddim.step(self.guided(x, at, condition, null, guidance).float(), int(t), x)[0]
        self.train(was_training)
        return self.decode(x)

    def forward(self, latents: Tensor, steps: Tensor, labels: Tensor) -> Tensor:
        """`predict` for class numbers."""
        return self.predict(latents, steps, self.condition(labels))

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> RGBDDiffusion:
        """A model in eval mode from a folder that ``save_pretrained`` wrote, or a hub id.

        Raises:
            CheckpointError: a missing, damaged, hostile or foreign file.
            ImportError: no diffusers (with text: open_clip), or a hub id without huggingface_hub.
        """
        config, tensors = read_folder(source, DiffusionConfig(), FORMAT, revision=revision)
        return cls.from_tensors(config, tensors).to(device)

    @classmethod
    def from_tensors(cls, config: DiffusionConfig, tensors: Mapping[str, Tensor]) -> RGBDDiffusion:
        """A model in eval mode with copies of ``tensors``, matched by name and shape.

        Raises:
            CheckpointError: names, shapes or values are not those of such a model.
        """
        inner, outer = config.autoencoder, config.denoiser
        layers = len(inner.widths) * inner.layers + inner.critic_layers
        layers += outer.depth if outer.kind == "dit" else len(outer.widths) * outer.layers
        layers += config.text.layers if outer.conditioning == "text" else 0
        model = filled(lambda: cls(config), layers, tensors)
        if not float(model.latent_scale) > 0:
            raise CheckpointError(
                f"latent_scale is {float(model.latent_scale)}, not positive; take an earlier "
                "checkpoint, or train again"
            )
        return model

    def save_pretrained(
        self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32
    ) -> None:
        """Write ``config.json`` (with the class names) and ``model.safetensors``, atomic each.

        Raises:
            ValueError: a dtype but float32 and float16, or weights that are not finite in it.
            CheckpointError: the folder cannot be written.
        """
        write_pretrained(folder, config_to_dict(self.config, FORMAT), self.state_dict(), dtype)
