"""The smallest RGB-D autoencoder and diffusion that have every part, and a set to learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastrecon.config import NetworksConfig, OptimConfig, RunConfig
from fastrecon.config.g3dr import RGBDDataConfig
from fastrecon.config.rgbd import (
    AutoencoderConfig,
    AutoencoderLossConfig,
    DenoiserConfig,
    DiffusionConfig,
    RGBDAutoencoderConfig,
    RGBDDiffusionConfig,
    TextConfig,
)
from fastrecon.models.rgbd import RGBDAutoencoder, RGBDDiffusion

SIZE = 16
CLASSES = ("golden retriever", "tabby cat", "teapot")
AUTOENCODER = AutoencoderConfig(
    size=SIZE, widths=(8, 8, 8, 8), layers=1, groups=4, critic_width=4, critic_layers=2
)
DENOISER = DenoiserConfig(head_dim=4, widths=(8, 16), layers=1, groups=4, depth=2, heads=4, patch=1)
TEXT = TextConfig(width=8, layers=1, heads=2, context=16)
DIFFUSION = DiffusionConfig(
    autoencoder=replace(AUTOENCODER, critic_width=0, critic_layers=3),
    denoiser=DENOISER,
    text=TEXT,
    classes=CLASSES,
)


def pictures(count: int = 2, size: int = SIZE, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random images and depth."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(count, 3, size, size, generator=generator),
        torch.rand(count, 1, size, size, generator=generator),
    )


def stirred(model: nn.Module, seed: int = 0) -> Any:
    """The model with every parameter moved, so that each shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def autoencoder(config: AutoencoderConfig = AUTOENCODER) -> RGBDAutoencoder:
    """A model with values from a fixed seed."""
    torch.manual_seed(0)
    return stirred(RGBDAutoencoder(config)).eval()


def diffusion(**denoiser: Any) -> RGBDDiffusion:
    """A model with values from a fixed seed; fields of its ``DenoiserConfig`` may be given."""
    torch.manual_seed(0)
    config = replace(DIFFUSION, denoiser=replace(DENOISER, **denoiser))
    model = stirred(RGBDDiffusion(config)).eval()
    model.latent_scale.fill_(0.7)
    return model


def write_set(root: Path, classes: tuple[str, ...] = CLASSES, count: int = 4) -> Path:
    """Class folders of pictures with 16-bit depth."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            colours = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            colours[..., k % 3] = 255
            ramp = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
            Image.fromarray(colours).save(root / name / f"{i}.png")
            Image.fromarray(ramp).save(root / name / f"{i}_depth.png")
    return root


OPTIM = OptimConfig(steps=6, batch_size=2, lr=1e-3, warmup=1, ema=0.9, precision="fp32")


def run(out: Path) -> RunConfig:
    """A run on the CPU that writes nothing in between."""
    return RunConfig(
        out=str(out),
        device="cpu",
        log_every=2,
        validate_every=100,
        checkpoint_every=100,
        validation_objects=2,
    )


def autoencoder_run(out: Path, data: str = "", adversarial_from: int = 3) -> RGBDAutoencoderConfig:
    """Six steps whose second half has the critic; procedural scenes without ``data``."""
    return RGBDAutoencoderConfig(
        model=AUTOENCODER,
        data=RGBDDataConfig(path=data, max_parts=2),
        loss=AutoencoderLossConfig(adversarial_from=adversarial_from),
        networks=NetworksConfig(perceptual="ssim"),
        optim=replace(OPTIM, clip=1e3),
        run=run(out),
    )


def diffusion_run(out: Path, weights: str, data: str = "") -> RGBDDiffusionConfig:
    """Six steps on the latents of ``weights``."""
    return RGBDDiffusionConfig(
        model=replace(DIFFUSION, autoencoder=AUTOENCODER, sampling_steps=2),
        autoencoder=weights,
        data=RGBDDataConfig(path=data, max_parts=2),
        optim=OPTIM,
        run=run(out),
    )
