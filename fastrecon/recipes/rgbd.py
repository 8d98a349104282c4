"""Recipes of f_rgb: the RGB-D autoencoder, then the diffusion on its latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..config import NetworksConfig, OptimConfig, RunConfig
from ..config.rgbd import (
    AutoencoderConfig,
    AutoencoderLossConfig,
    DiffusionConfig,
    RGBDAutoencoderConfig,
    RGBDDiffusionConfig,
)

ADAM_PER_PICTURE = 4.5e-6
"""Learning rate of the autoencoder for each picture of a batch (latent diffusion)."""
UNCLIPPED = 1e3
"""A gradient norm that is never reached: both sides of the game share it, so neither may set it."""


def rgbd_autoencoder() -> RGBDAutoencoderConfig:
    """f_rgb, stage 1: 84 M parameters, f8, RGB-D at 256 pixels, with latent diffusion's losses."""
    batch = 32
    return RGBDAutoencoderConfig(
        optim=OptimConfig(
            steps=250_000,
            batch_size=batch,
            lr=ADAM_PER_PICTURE * batch,
            betas=(0.5, 0.9),
            eps=1e-8,
            weight_decay=0.0,
            warmup=0,
            final_lr=1.0,
            clip=UNCLIPPED,
            ema=0.0,
        ),
        run=RunConfig(
            out="runs/rgbd_autoencoder",
            validate_every=5000,
            checkpoint_every=1000,
            validation_objects=256,
            data_workers=4,
        ),
    )


def rgbd_autoencoder_tiny() -> RGBDAutoencoderConfig:
    """The same at 32 pixels on procedural scenes: minutes on two CPU cores, no weights to fetch."""
    start = rgbd_autoencoder()
    return replace(
        start,
        model=AutoencoderConfig.tiny(),
        data=replace(start.data, scenes=1024),
        loss=AutoencoderLossConfig(adversarial_from=800),
        networks=NetworksConfig(perceptual="ssim"),
        optim=replace(start.optim, steps=1000, batch_size=16, lr=1e-3, warmup=50, precision="fp32"),
        run=RunConfig(
            out="runs/rgbd_autoencoder_tiny",
            validate_every=500,
            checkpoint_every=250,
            data_workers=1,
        ),
    )


def rgbd_diffusion() -> RGBDDiffusionConfig:
    """f_rgb, stage 2: a class-conditional U-Net of 259 M parameters on 32 x 32 x 4 latents."""
    return RGBDDiffusionConfig(
        autoencoder="runs/rgbd_autoencoder/model",
        optim=OptimConfig(
            steps=400_000,
            batch_size=256,
            lr=1e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.01,
            warmup=1000,
            final_lr=1.0,
            ema=0.9999,
        ),
        run=RunConfig(
            out="runs/rgbd_diffusion",
            validate_every=10_000,
            checkpoint_every=1000,
            validation_objects=256,
            data_workers=4,
        ),
    )


def rgbd_diffusion_tiny() -> RGBDDiffusionConfig:
    """The same on the latents of `rgbd_autoencoder_tiny`: minutes on two CPU cores."""
    start = rgbd_diffusion()
    return replace(
        start,
        model=DiffusionConfig.tiny(),
        data=replace(start.data, scenes=2048),
        autoencoder="runs/rgbd_autoencoder_tiny/model",
        optim=replace(
            start.optim,
            steps=2000,
            batch_size=32,
            lr=1e-3,
            warmup=100,
            final_lr=0.0,
            ema=0.995,
            precision="fp32",
        ),
        run=RunConfig(
            out="runs/rgbd_diffusion_tiny",
            validate_every=1000,
            checkpoint_every=500,
            data_workers=1,
        ),
    )


RGBD_RECIPES: dict[str, Callable[[], RGBDAutoencoderConfig | RGBDDiffusionConfig]] = {
    "rgbd_autoencoder": rgbd_autoencoder,
    "rgbd_autoencoder_tiny": rgbd_autoencoder_tiny,
    "rgbd_diffusion": rgbd_diffusion,
    "rgbd_diffusion_tiny": rgbd_diffusion_tiny,
}
