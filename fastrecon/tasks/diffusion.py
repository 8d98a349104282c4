"""The second stage of f_rgb: an ``RGBDDiffusion`` on pictures with depth and their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import CheckpointError
from ..config.checks import resolve_device
from ..config.rgbd import AutoencoderConfig, RGBDDiffusionConfig
from ..config.rgbd_checks import check_diffusion_run
from ..data.rgbd import RGBDBatch, RGBDError, open_rgbd
from ..data.scene_stream import scene_batch
from ..evaluation.estimates import Estimate
from ..models.rgbd import RGBDAutoencoder, RGBDDiffusion
from ..objectives.diffusion import DiffusionObjective
from .autoencoder import CHUNK, grid, held_out_pictures, mean_of, rank_batch
from .task import Report, divided, share_run

SCALE_PICTURES = 64
"""Of the first batches, that the latents' scale is measured on."""
NOISE_LEVELS = 8
"""Steps at which the noise in a held-out picture is predicted, evenly spread."""
SHOWN = 8
"""Samples in the validation's picture, of classes evenly spread."""
PROCEDURAL = ("scene",)
"""The one class of the procedural scenes."""


@dataclass(frozen=True)
class DiffusionScores:
    """Means over held-out pictures with 95% bootstrap intervals."""

    pictures: int
    noise_error: Estimate
    """Mean squared error of the predicted noise, over evenly spread noise levels; 1 is nothing."""

    def table(self) -> str:
        """For a terminal."""
        return f"squared error of predicted noise   {self.noise_error.text(4)}"


class RGBDGeneration:
    """Trains ``RGBDDiffusion(cfg.model)`` towards ``DiffusionObjective(cfg)``."""

    def __init__(self, cfg: RGBDDiffusionConfig, rank: int = 0, size: int = 1) -> None:
        self.cfg = cfg
        self.rank, self.size = rank, size
        self.held_out: RGBDBatch | None = None

    @property
    def images_per_step(self) -> int:
        """Pictures."""
        return self.cfg.optim.batch_size

    def share(self, rank: int, size: int) -> RGBDGeneration:
        """See ``Task.share``."""
        if size == 1:
            return self
        batch = divided("optim.batch_size", self.cfg.optim.batch_size, size)
        optim = replace(self.cfg.optim, batch_size=batch)
        mine = replace(self.cfg, optim=optim, run=share_run(self.cfg.run, rank))
        return RGBDGeneration(mine, rank, size)

    def check(self) -> None:
        """See ``check_diffusion_run``."""
        check_diffusion_run(self.cfg)

    def build_model(self) -> RGBDDiffusion:
        """The model of ``cfg`` for the data's classes, with a frozen, measured autoencoder.

        Or one with the weights of ``cfg.run.init``, which must fit.

        Raises:
            CheckpointError: no such weights, or weights of another architecture.
            RGBDError: the data's classes cannot be read.
            WeightsError: the text encoder's weights cannot be had.
        """
        cfg = self.cfg
        config = replace(cfg.model, classes=class_names(cfg))
        if cfg.run.init:
            weights = RGBDDiffusion.from_pretrained(cfg.run.init).state_dict()
            return RGBDDiffusion.from_tensors(config, weights)
        first = RGBDAutoencoder.from_pretrained(cfg.autoencoder)
        config = replace(config, autoencoder=frozen(config.autoencoder))
        _same_sizes(frozen(first.config), config.autoencoder)
        model = RGBDDiffusion(config)
        model.autoencoder.load_state_dict(first.generator_state())
        if model.text is not None:
            model.text.load(cfg.networks)
        model.fit_scale(first_latents(cfg, model.autoencoder))
        return model

    def build_objective(self, device: torch.device) -> DiffusionObjective:
        """The noise is to be told."""
        return DiffusionObjective(self.cfg)

    def batches(self, device: torch.device | str) -> Callable[[int], RGBDBatch]:
        """See ``scene_batch``."""
        return partial(rank_batch, self.cfg.stream(), self.rank, self.size)

    def validate(self, model: Any) -> Report:
        """Predict the noise in held-out pictures, and sample some; lower errors score higher."""
        if self.held_out is None:
            self.held_out = held_out_pictures(self.cfg.stream())
        errors = noise_errors(model, self.held_out)
        scores = DiffusionScores(len(errors), mean_of(errors))
        shown = min(SHOWN, len(model.classes))
        labels = torch.linspace(0, len(model.classes) - 1, shown).round().long()
        labels = labels.repeat_interleave(-(-SHOWN // shown))[:SHOWN]
        samples = model.sample(labels, generator=torch.Generator().manual_seed(0))
        return Report(
            score=-scores.noise_error.mean,
            scalars={"noise_error": scores.noise_error.mean},
            table=scores.table(),
            content=scores,
            picture=grid([samples.images, samples.depth], rows=SHOWN),
        )


def frozen(config: AutoencoderConfig) -> AutoencoderConfig:
    """The autoencoder as part of a diffusion: without the critic that trained it."""
    plain = AutoencoderConfig()
    return replace(config, critic_width=0, critic_layers=plain.critic_layers)


def _same_sizes(stored: AutoencoderConfig, wanted: AutoencoderConfig) -> None:
    differences = [
        f"{name}: {value} in the weights, {getattr(wanted, name)} in model.autoencoder"
        for name, value in vars(stored).items()
        if value != getattr(wanted, name)
    ]
    if differences:
        raise CheckpointError(
            "the autoencoder's weights are not of the size that the model is to have; pass the "
            "same --model.autoencoder values:\n  " + "\n  ".join(differences)
        )


def first_latents(cfg: RGBDDiffusionConfig, autoencoder: RGBDAutoencoder) -> Tensor:
    """Latents of the run's first pictures, as they will be drawn, on the CPU."""
    device = resolve_device(cfg.run.device)
    stream = cfg.stream()
    stream = replace(stream, optim=replace(stream.optim, batch_size=CHUNK))
    generator = torch.Generator().manual_seed(cfg.data.seed)
    latent = cfg.model.autoencoder
    shape = (CHUNK, latent.latent_channels, latent.latent_size, latent.latent_size)
    autoencoder.to(device)
    parts = []
    with torch.no_grad():
        for step in range(SCALE_PICTURES // CHUNK):
            batch = scene_batch(stream, step).to(device)
            noise = torch.randn(shape, generator=generator).to(device)
            parts.append(autoencoder.encode(batch.images, batch.depth, noise).cpu())
    autoencoder.to("cpu")
    return torch.cat(parts)


@torch.no_grad()
def noise_errors(model: RGBDDiffusion, pictures: RGBDBatch) -> Tensor:
    """Mean squared error of the noise predicted in each picture ``(n,)``, fixed noise and levels.

    The model is left in the mode that it was in.
    """
    device, was_training = model.latent_scale.device, model.training
    model.eval()
    generator = torch.Generator().manual_seed(0)
    span = model.config.noise_steps / NOISE_LEVELS
    found = []
    for start in range(0, len(pictures.images), CHUNK):
        part = slice(start, start + CHUNK)
        images, depth, labels = (
            x[part].to(device) for x in (pictures.images, pictures.depth, pictures.labels)
        )
        latents = model.encode(images, depth)
        condition = model.condition(labels)
        errors = []
        for level in range(NOISE_LEVELS):
            noise = torch.randn(latents.shape, generator=generator).to(device)
            steps = torch.full((len(latents),), int((level + 0.5) * span), device=device)
            noisy = model.add_noise(latents, noise, steps)
            error = model.predict(noisy, steps, condition).float() - noise
            errors.append(error.square().mean((1, 2, 3)).cpu())
        found.append(torch.stack(errors).mean(0))
    model.train(was_training)
    return torch.cat(found)


def class_names(cfg: RGBDDiffusionConfig) -> tuple[str, ...]:
    """The classes of the data by number, by the names that ``cfg.class_names`` gives them.

    A name that several folders have ("crane") is told apart by the folder: "crane (n03126707)".

    Raises:
        RGBDError: the set or the file cannot be read, or a folder has no name.
    """
    if not cfg.data.path:
        return PROCEDURAL
    folders = open_rgbd(cfg.data.path).classes
    if not cfg.class_names:
        return folders
    path = Path(cfg.class_names)
    try:
        lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RGBDError(f"{path} cannot be read as text ({error})") from error
    names = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    missing = [folder for folder in folders if folder not in names]
    if missing:
        raise RGBDError(
            f"{path} names no {missing[0]} (nor {len(missing) - 1} other folders of "
            f'{cfg.data.path}); it needs a line "<folder> <name>" for each'
        )
    often = Counter(names[folder] for folder in folders)
    return tuple(
        names[folder] if often[names[folder]] == 1 else f"{names[folder]} ({folder})"
        for folder in folders
    )
